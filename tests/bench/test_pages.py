"""Pages show what is stored, and nothing else."""

import json

import pytest

from bench import recovery
from bench.oracle_speed.__main__ import RESULTS, SHOWN, _table
from bench.pages import PAGE, shown
from bench.quick_quality.summary import tables

MADE = {
    "oracle_speed": lambda found: _table(found),
    "quick_quality": lambda found: tables(found["cases"]),
}
FILES = {**{name: file for file, name in SHOWN.items()}, "quick_quality": "quick_quality"}


def test_the_page_on_recovery_shows_what_is_stored():
    page = recovery.PAGE.read_text(encoding="utf-8")
    found = json.loads(recovery.RESULT.read_text(encoding="utf-8"))
    assert shown(page, "recovery", recovery.table(found)) == page


@pytest.mark.parametrize("name", MADE)
def test_the_page_shows_what_is_stored(name):
    page = PAGE.read_text(encoding="utf-8")
    found = json.loads((RESULTS / f"{FILES[name]}.json").read_text(encoding="utf-8"))
    assert shown(page, name, MADE[name](found)) == page
    assert shown(page, name, "other") != page


def test_a_page_without_the_place_is_refused():
    with pytest.raises(ValueError, match="0 places for other"):
        shown("nothing", "other", "table")
