"""The YAML loader: places, the core schema of YAML 1.2, bounds on what a file may expand to, and no stray exception."""

from __future__ import annotations

import math
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specs.diagnostics import Diagnostic, SpecError
from specs.node import Node
from specs.source import parse, scalar
from specs.spec import load_spec

EXAMPLE = Path(__file__).parents[2] / "specs" / "examples" / "digits.yaml"


def tree(text: str) -> Node:
    problems: list[Diagnostic] = []
    root = parse(text, "a.yaml", problems)
    assert root is not None
    assert problems == []
    return root


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.5", -0.5),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("-.inf", -math.inf),
        ("40%", "40%"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_and_tagged_text_stays_text() -> None:
    root = tree("a: '1'\nb: !!str 2\nc: |\n  3\n")
    assert root.plain() == {"a": "1", "b": "2", "c": "3\n"}


def test_every_value_knows_its_place() -> None:
    root = tree("a: 1\nb:\n  - {c: x}\n  - d\n")
    assert str(root.at(("b", 0, "c"))) == "a.yaml:3:9"
    assert str(root.at(("b", 0, "c"), key=True)) == "a.yaml:3:6"
    assert str(root.at(("b", 1))) == "a.yaml:4:5"
    assert str(root.at(("b", 7, "x"))) == "a.yaml:2:1"
    assert str(root.at(())) == "a.yaml:1:1"


def test_aliases_share_and_merge_keys_add() -> None:
    root = tree("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\nagain: *b\n")
    assert root.plain() == {"base": {"x": 1, "y": 2}, "use": {"y": 3, "x": 1}, "again": {"x": 1, "y": 2}}
    assert str(root.at(("use", "x"))) == "a.yaml:1:14"


def bomb(width: int, levels: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


MERGES = "a0: &a0 {k: 1}\n" + "\n".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: *a{i - 1}}}" for i in range(1, 40)
)


HOSTILE_FILES = [
    "[" * 100_000,
    "- " * 100_000,
    "? " * 100_000,
    "a: &a [" + "*a, " * 1000 + "]\n" + "b: " + "[" * 60,
    "{a: " * 20_000,
    "a: b\n" * 30_000,
    "&a " * 50_000,
    '"' + "\\x41" * 20_000,
    "a:\n" + "  - b\n" * 30_000,
]


@pytest.mark.parametrize("text", HOSTILE_FILES, ids=lambda text: repr(text[:8]))
def test_hostile_yaml_is_refused_quickly(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(SpecError) as caught:
        parse(text, "a.yaml", [])
    assert caught.value.diagnostics[-1].code in ("S101", "S117")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("text", [bomb(9, 9), bomb(2, 39), MERGES], ids=["wide", "deep", "merges"])
def test_aliases_that_would_expand_without_bound_are_refused_in_little_memory(text: str) -> None:
    tracemalloc.start()
    with pytest.raises(SpecError, match="holds more than 5000 values"):
        parse(text, "a.yaml", [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_environment_cannot_grow_a_file_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONG", "x" * 100_000)
    with pytest.raises(SpecError, match="environment variables add more than 256 KiB"):
        parse("a: " + "${env:LONG}" * 20_000, "a.yaml", [])


def only_spec_errors(data: bytes, folder: Path) -> None:
    path = folder / "a.yaml"
    path.write_bytes(data)
    try:
        load_spec(path)
    except SpecError as error:
        error.render(excerpt=True).encode()  # what is shown can be printed


HOSTILE = [
    "&a",
    "*a",
    "{",
    "]",
    ":",
    "- ",
    "? ",
    "!!int ",
    "<<: ",
    "'",
    '"\\U',
    "\t",
    "\0",
    "%",
    "|",
    ">",
    "---\n",
    "é",
]
HOSTILE += ["1e999", ".nan", "9" * 30, "null", "${env:X}", "\n  ", "#", "[[]]", "0x", "\ud7ff", "-1", "true", "{}"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_spec_raises_nothing_but_spec_errors(tmp_path: Path, data: st.DataObject) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.sampled_from(HOSTILE)) + text[at + cut :]
    only_spec_errors(text.encode(), tmp_path)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("40%"))


@st.composite
def mangled(draw: st.DrawFn, value: object, depth: int = 0) -> object:
    """The value with parts replaced by scalars, lists and mappings of other types."""
    if draw(st.integers(0, 14)) == 0:
        choices = st.one_of(
            SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=4), SCALARS, max_size=2)
        )
        return draw(choices)
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if draw(st.integers(0, 19))}
        return {key: draw(mangled(item, depth + 1)) for key, item in kept.items()}
    if isinstance(value, list):
        return [draw(mangled(item, depth + 1)) for item in value]
    return value


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_values_of_any_type_anywhere_raise_nothing_but_spec_errors(tmp_path: Path, data: st.DataObject) -> None:
    spec = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    only_spec_errors(yaml.safe_dump(data.draw(mangled(spec))).encode(), tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_raise_nothing_but_spec_errors(tmp_path: Path, data: bytes) -> None:
    only_spec_errors(data, tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="abcdefgmnopqrstuy.[]=0123456789 :{}", max_size=30))
def test_any_override_raises_nothing_but_spec_errors(text: str) -> None:
    with suppress(SpecError):
        load_spec(EXAMPLE, [text])
