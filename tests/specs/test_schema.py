"""spec.schema.json and docs/error-codes.md are current, and the schema agrees with the loader."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from specs.diagnostics import Diagnostic
from specs.error_codes import PAGE, error_codes_page
from specs.schema import SCHEMA_FILE, schema_text
from specs.source import parse
from specs.spec import load_spec
from tests.specs.conftest import MODEL, PASSES, TASKS, Read
from tests.specs.test_errors import CASES

EXAMPLES = sorted((Path(__file__).parents[2] / "specs" / "examples").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
GOOD = MODEL + PASSES


def accepts(text: str) -> bool:
    problems: list[Diagnostic] = []
    root = parse(text, "a.yaml", problems)
    assert root is not None
    assert problems == []
    return VALIDATOR.is_valid(root.plain())


def test_the_committed_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python -m specs.schema"
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


def test_the_committed_page_of_codes_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == error_codes_page(), "run python -m specs.error_codes"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_accepted_by_both(path: Path) -> None:
    spec = load_spec(path)
    assert accepts(path.read_text(encoding="utf-8"))
    assert accepts(spec.to_yaml())


ACCEPTED = [
    GOOD,
    MODEL + TASKS + "passes: [pagcp: {total: 6}, finetune: , uniform: {ratio: 0.5}]\n",
    MODEL + TASKS + "passes: [pagcp: {total: 6, grid: {start: 0.1, stop: 0.5, steps: 3}}]\n",
    MODEL + "passes: [uniform]\nbudgets: {macs: 40%, params: 5M, bytes: 20 MB}\n",
    GOOD + "budgets: {macs: 1.2G, params: 100000, bytes: 99.5%}\n",
    GOOD + "budgets: {macs: 100%, params: 4e1%}\n",
    GOOD.replace("[1, 3, 64, 64]", "{shape: [1, 8], dtype: int64}, [2, 3]"),
    GOOD.replace("ratio: 0.5", "ratio: 0.5, scopes: {'head.*': {max_ratio: 0, round_to: 8}}"),
    GOOD + "tasks: [{name: a, metric: EER, output: 0, target: a.b, guarantee: {max_drop: 1pp}}]\n",
    GOOD + "tasks: [{name: a, metric: m:f, loss: {name: nll_loss, x: 1}, guarantee: {at_least: 0.9, max_drop: ~}}]\n",
    GOOD + "seed: ${env:WIDTH}\ndevice: cuda:1\n",
    GOOD + "export: []\nlosses: ~\ndata: ~\n",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
def test_the_schema_accepts_what_the_loader_accepts(text: str, read: Read) -> None:
    read(text)
    assert accepts(text)


def test_the_schema_accepts_variables_in_the_place_of_numbers() -> None:
    spec = {"version": 1, "model": {"factory": "${env:F}", "inputs": [[1, "${env:SIZE}"]]}, "passes": ["uniform"]}
    spec |= {"seed": "${env:SEED}", "budgets": {"macs": "${env:MACS}"}}
    assert VALIDATOR.is_valid(spec)


def test_the_schema_accepts_parts_of_a_spec_that_extends_another(read: Read) -> None:
    text = "extends: base.yaml\ndata: {batch_size: 64}\nbudgets: {macs: 50%}\n"
    read(text, base=MODEL + TASKS + "passes: [pagcp: {total: 6}]\n")
    assert accepts(text)


# mistakes that only the loader can see: YAML itself, files, and rules between fields
UNDECIDABLE = {
    "quantity that is no number",
    "backing off without a guarantee", "budget as a fraction", "budget of nothing", "confidence of the scan",
    "confidence with a share", "criterion without tasks", "factory and program", "grid descends",
    "grid of one step", "guarantee without metric", "key of an argument", "metrics as the authors' code measures",
    "metrics of samples", "missing inputs", "no factory",
    "no guarantee", "no loss", "no weights", "options of another search", "pass without data", "pass without tasks",
    "quirks with tolerances", "quirks with a floor", "floor of no task",
    "ratio above max_ratio", "repeat without an end", "same name", "tolerance of no task",
    "total auto without an end", "total auto without budgets", "total too small", "trainer beside the rest",
    "trainer of a program", "two guarantees",
    "uniform without aim", "wrong side",
}  # fmt: skip


READABLE = [
    case
    for case, (text, expected) in CASES.items()
    if isinstance(text, str) and case != "empty" and not re.search(r"\[(S101|S102|S115|S117)\]", expected)
]


@pytest.mark.parametrize("case", READABLE)
def test_the_schema_refuses_what_is_decidable(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDTH", "48")
    text = CASES[case][0]
    assert isinstance(text, str)
    assert accepts(text) == (case in UNDECIDABLE)
