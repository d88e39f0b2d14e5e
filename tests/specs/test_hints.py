"""Hints for what people write most often by mistake, and excerpts that fit a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs.diagnostics import Diagnostic, SpecError
from specs.quantity import Quantity
from specs.spec import load_spec
from tests.specs.test_errors import GOOD


def told(folder: Path, *overrides: str) -> str:
    (folder / "face.yaml").write_text(GOOD)
    with pytest.raises(SpecError) as caught:
        load_spec(folder / "face.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "hint"),
    [("2p", "did you mean 2pp or 2%?"), ("1.5 percent", "did you mean 1.5%?"), ("2points", "did you mean 2pp?")],
)
def test_a_unit_that_is_none(tmp_path: Path, written: str, hint: str) -> None:
    task = f"{{name: t, loss: l1_loss, metric: MeanAbsoluteError, guarantee: {{max_drop: {written}}}}}"
    text = told(tmp_path, f"tasks=[{task}]")
    assert text.endswith(f"  hint: {hint}")
    assert "known:" not in text


def test_other_units_are_listed() -> None:
    with pytest.raises(ValueError, match="has an unknown unit parsec; known: K, M"):
        Quantity.parse("3parsec")


@pytest.mark.parametrize(("written", "hint"), [("95%", "write 0.95"), (" 99.5 % ", "write 0.995")])
def test_a_share_that_is_a_number(tmp_path: Path, written: str, hint: str) -> None:
    guarantee = f"{{max_drop: 1pp, confidence: '{written}'}}"
    text = told(tmp_path, f"tasks=[{{name: t, loss: l1_loss, metric: MeanAbsoluteError, guarantee: {guarantee}}}]")
    assert text.endswith(f"  hint: {hint}")


@pytest.mark.parametrize("column", [1, 30, 79, 80, 81, 150, 300])
@pytest.mark.parametrize("line", [3, 1234])
def test_excerpts_fit_80_columns(column: int, line: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(300))
    rendered = Diagnostic("S110", "m", f"face.yaml:{line}:{column}", line=text).render(excerpt=True)
    _, excerpt, caret = rendered.splitlines()
    assert max(map(len, (excerpt, caret))) <= 80
    assert excerpt[caret.index("^")] == text[column - 1]
