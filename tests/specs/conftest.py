"""Specs in a folder of their own: `read` loads a text as face.yaml, `refused` gives the text of its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from specs.diagnostics import SpecError
from specs.spec import Spec, load_spec

MODEL = "version: 1\nmodel: {factory: face:build, inputs: [[1, 3, 64, 64]]}\n"
PASSES = "passes: [uniform: {ratio: 0.5}]\n"
TASKS = "data: {factory: face:data}\ntasks: [{name: age, loss: mse_loss}]\n"

Read = Callable[..., Spec]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WIDTH", "48")
    monkeypatch.delenv("NOWHERE", raising=False)

    def load(text: str | bytes, *overrides: str, **files: str) -> Spec:
        for name, content in files.items():
            Path(f"{name}.yaml").write_text(content, encoding="utf-8")
        Path("face.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_spec("face.yaml", overrides)

    return load


@pytest.fixture
def refused(read: Read) -> Callable[..., str]:
    def load(text: str | bytes, *overrides: str, **files: str) -> str:
        with pytest.raises(SpecError) as caught:
            read(text, *overrides, **files)
        assert caught.value.exit_code == 2
        return str(caught.value)

    return load
