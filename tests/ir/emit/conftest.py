"""One export of the multitask network in every format, shared by all tests: ONNX export is slow."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from pagcp_ir.emit import EXPORTERS, About, ExportReport
from pagcp_ir.program import Program
from tests.ir.emit import emit_nets

ABOUT = About("Multitask network on 8x8 images", ("Cut by pagcp from emit_nets:Multitask.", "Plan sha256:0123"))


@dataclass(frozen=True)
class Exported:
    folder: Path
    program: Program
    reports: dict[str, ExportReport]
    chatter: str


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("artifact")
    program = emit_nets.program("multitask")
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        reports = {name: write(program, folder, ABOUT) for name, write in EXPORTERS.items()}
    return Exported(folder, program, reports, text.getvalue())
