"""Pages show what is stored, and nothing else."""

import json

import pytest

from bench import formats, recovery
from bench.oracle_speed.__main__ import RESULTS, SHOWN, _growth_table, _table
from bench.pages import PAGE, shown
from bench.quick_quality.summary import tables

MADE = {
    "oracle_speed": lambda found: _table(found),
    "oracle_growth": lambda found: _growth_table(found),
    "quick_quality": lambda found: tables(found["cases"]),
}
FILES = {**{name: file for file, name in SHOWN.items()}, "quick_quality": "quick_quality"}


@pytest.mark.parametrize(("name", "bench"), [("recovery", recovery), ("formats", formats)])
def test_another_page_shows_what_is_stored(name, bench):
    page = bench.PAGE.read_text(encoding="utf-8")
    found = json.loads(bench.RESULT.read_text(encoding="utf-8"))
    assert shown(page, name, bench.table(found)) == page


@pytest.mark.parametrize("name", MADE)
def test_the_page_shows_what_is_stored(name):
    page = PAGE.read_text(encoding="utf-8")
    found = json.loads((RESULTS / f"{FILES[name]}.json").read_text(encoding="utf-8"))
    assert shown(page, name, MADE[name](found)) == page
    assert shown(page, name, "other") != page


def test_a_page_without_the_place_is_refused():
    with pytest.raises(ValueError, match="0 places for other"):
        shown("nothing", "other", "table")
