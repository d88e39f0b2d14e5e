"""`pagcp explain` and `pagcp passes`: every code and every option is told, from the code, at 80 and at 120 columns."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from pagcp_cli.main import app
from specs.catalogue import catalogue
from specs.diagnostics import CODES
from specs.explanations import EXPLAINED
from specs.options import OPTIONS
from tests.running import Ran

Golden = Callable[[str, str], None]

OUT_OF_RANGE = """S104: a value is out of its range
cause       a number beyond its bounds, an empty list, or a budget above 100%
what to do  the message tells the bounds; budgets are upper bounds on what is
            kept
exit code   2
"""


def run(*arguments: str, columns: int = 80) -> Ran:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})
    return Ran(done.exit_code, done.stdout, done.stderr)


def test_every_code_is_explained() -> None:
    assert list(EXPLAINED) == sorted(EXPLAINED, key=list(CODES).index)
    assert set(EXPLAINED) == set(CODES)
    assert all(text and text[-1] != "." for pair in EXPLAINED.values() for text in pair)


@pytest.mark.parametrize("written", ["S104", "s104", "[S104]"])
def test_a_code(written: str) -> None:
    assert run("explain", written) == Ran(0, OUT_OF_RANGE, "")


def test_a_code_as_json() -> None:
    found = json.loads(run("explain", "P401", "--json").out)
    assert (found["code"], found["meaning"], found["exit_code"]) == ("P401", CODES["P401"], 1)
    assert (found["cause"], found["remedy"]) == EXPLAINED["P401"]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("S14", "did you mean S114 or S104?"),
        ("range", "codes are a letter and three digits, as in S104; docs/error-codes.md lists them"),
    ],
)
def test_an_unknown_code(written: str, hint: str) -> None:
    message = f"error[S107]: there is no error code '{written}'\n  hint: {hint}\n"
    assert run("explain", written) == Ran(2, "", message)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_passes(columns: int, golden: Golden) -> None:
    ran = run("passes", columns=columns)
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= columns
    one = run("passes", "uniform", columns=columns).out
    assert ran.out.startswith(f"{one}\n")
    golden(f"passes_uniform_{columns}.txt", one)


def test_every_option_is_told_with_its_default() -> None:
    found = {each["name"]: each for each in json.loads(run("passes", "--json").out)}
    assert list(found) == list(OPTIONS)
    for name, model in OPTIONS.items():
        told = {option["name"]: option for option in found[name]["options"]}
        assert set(told) == set(model.model_fields)
        assert {key: told[key]["description"] for key in told} == {
            key: field.description for key, field in model.model_fields.items()
        }
    ratio = next(option for option in found["pagcp"]["options"] if option["name"] == "tolerance")
    assert (ratio["default"], ratio["takes"]) == ("0.06", "number above 0, at most 10")


def test_one_pass() -> None:
    ran = run("passes", "refit")
    assert ran.out.startswith("refit\n  Repairs what is left in closed form;")
    assert "finetune\n" not in ran.out
    assert run("passes", "refti").err == "error[S107]: there is no pass 'refti'\n  hint: did you mean refit?\n"


def test_what_an_option_takes_needs_no_words_of_json_schema() -> None:
    told = [option.takes for each in catalogue() for option in each.options]
    assert not [takes for takes in told if "a value" in takes or "$" in takes or "anyOf" in takes]
