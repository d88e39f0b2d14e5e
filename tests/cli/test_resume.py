"""A run that was killed and gone on with ends as if it never had been; runs that are others are refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import pytest
from safetensors.torch import load_file, save_file

from pagcp_cli import compile_spec, load_spec
from pagcp_cli.folder import unfinished
from specs.diagnostics import SpecError
from tests import faults
from tests.cli.projects import project
from tests.running import EXAMPLES

FAST = (
    *faults.COMMON,
    "data.calibration.samples=64",
    "budgets={macs: 60%}",
    "passes=[{pagcp: {swaps: 0}}, {finetune: {epochs: 3, lr: 0.002}}]",
)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faults.RUNS, "fast", FAST[len(faults.COMMON) :])


@pytest.mark.usefixtures("fast")
def test_interrupted_and_killed_in_the_search_and_killed_in_the_training(tmp_path: Path) -> None:
    reference, out = tmp_path / "reference", tmp_path / "out"
    compile_spec(load_spec(EXAMPLES / "digits.yaml", FAST), reference)
    kinds = [record["kind"] for record in faults.records(reference)]
    assert {"answer", "evaluation", "epoch"} <= set(kinds)
    told = interrupted_at(out, kinds.index("evaluation") + 2)
    again = f"pagcp {' '.join(map(quote, faults.command('fast', out)[1:]))} --resume"
    assert told.splitlines()[-2:] == [
        "interrupted; nothing was written",
        f"  what was found so far is kept; to go on: {again}",
    ]
    searching, training = kinds.index("evaluation") + 8, kinds.index("epoch") + 2
    assert faults.killed("fast", out, [searching, training], [0.02, 0.05]) == 2
    with pytest.raises(SpecError, match=r"an earlier run to .* was interrupted"):
        compile_spec(load_spec(EXAMPLES / "digits.yaml", FAST), out)
    compile_spec(load_spec(EXAMPLES / "digits.yaml", FAST), out, resume=True)
    assert faults.differences(reference, out) == []
    said = (out / "journal.jsonl").read_text()
    assert said.count('"kind": "start"') == 1
    assert said.count('"kind": "resumed"') == 3
    answers = [record["key"] for record in faults.records(out) if record["kind"] == "answer"]
    assert len(answers) == len(set(answers))  # nothing that was finished was measured again
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


def interrupted_at(out: Path, lines: int) -> str:
    """What the run says that is interrupted once its journal has so many lines."""
    with subprocess.Popen(
        faults.command("fast", out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        assert faults.until(process, out, lines, signal.SIGINT)
        out_text, told = process.communicate()
    assert (process.returncode, out_text) == (130, b"")
    return told.decode()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the example, and a run to `out` that stopped in its search."""
    folder = tmp_path_factory.mktemp("interrupted")
    for file in EXAMPLES.glob("digits.*"):
        shutil.copy(file, folder)

    def stop(kind: str, fields: object) -> None:
        if kind == "evaluation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_spec(load_spec(folder / "digits.yaml", FAST), folder / "out", progress=stop)
    sys.modules.pop("digits", None)
    return folder


def gone_on_with(folder: Path, *overrides: str) -> str:
    """How going on is refused."""
    with pytest.raises(SpecError) as caught:
        compile_spec(load_spec(folder / "digits.yaml", (*FAST, *overrides)), folder / "out", resume=True)
    assert unfinished(folder / "out")  # what is another run's is not lost
    return str(caught.value)


@contextmanager
def changed(file: Path, change: Callable[[str], str]) -> Iterator[None]:
    """For a while the text of the file is another one."""
    before = file.read_text()
    after = change(before)
    assert after != before
    file.write_text(after)
    try:
        yield
    finally:
        file.write_text(before)


HINT = "\n  hint: --force without --resume starts anew"


def test_a_run_of_another_spec(interrupted: Path) -> None:
    assert gone_on_with(interrupted, "tasks.0.guarantee.max_drop=2pp") == (
        'error[S120]: the interrupted run is of another spec: tasks[0].guarantee.max_drop was "1pp", is "2pp"' + HINT
    )


def test_a_run_of_another_checkpoint(interrupted: Path) -> None:
    file = interrupted / "digits.safetensors"
    tensors, before = load_file(file), file.read_bytes()
    tensors["encoder.stem.0.weight"][0] += 0.01
    save_file(tensors, file)
    try:
        told = gone_on_with(interrupted)
    finally:
        file.write_bytes(before)
    assert told == ("error[S120]: the interrupted run is of another network: its tensors or its code changed" + HINT)


def test_a_run_on_other_data(interrupted: Path) -> None:
    with changed(interrupted / "digits.py", lambda code: code.replace("NOISE = 0.1", "NOISE = 0.2")):
        told = gone_on_with(interrupted)
    assert told == "error[S120]: the interrupted run is on other calibration data" + HINT


def test_a_run_of_other_code(interrupted: Path) -> None:
    """A loss or a metric may be another one."""
    with changed(interrupted / "digits.py", lambda code: code + "\n# the same, or not\n"):
        told = gone_on_with(interrupted)
    assert told == "error[S120]: the interrupted run is of other code: digits" + HINT


JOURNAL = Path(".out.partial") / "result" / "journal.jsonl"


def test_answers_of_nobody_knows_what(interrupted: Path) -> None:
    def unstarted(journal: str) -> str:
        return "".join(line for line in journal.splitlines(True) if '"start"' not in line)

    with changed(interrupted / JOURNAL, unstarted):
        told = gone_on_with(interrupted)
    assert told == "error[S120]: the interrupted run has answers, and does not say of what" + HINT


def test_a_run_of_another_version(interrupted: Path) -> None:
    def older(journal: str) -> str:
        start, *rest = journal.splitlines(keepends=True)
        record = json.loads(start)
        record["versions"]["torch"] = "1.0"
        return json.dumps(record) + "\n" + "".join(rest)

    with changed(interrupted / JOURNAL, older):
        told = gone_on_with(interrupted)
    assert told.startswith("error[S120]: the interrupted run is of other versions: pagcp 0.1.0, python ")
    assert "torch 1.0; here are pagcp" in told


def test_what_is_exported_does_not_count(interrupted: Path) -> None:
    partial = interrupted / ".out.partial"
    shutil.copytree(partial, interrupted / ".copy.partial")
    compile_spec(load_spec(interrupted / "digits.yaml", (*FAST, "export=[]")), interrupted / "copy", resume=True)
    assert not (interrupted / "copy" / "model.py").exists()
    assert "resumed" in (interrupted / "copy" / "journal.jsonl").read_text()


def test_nothing_to_go_on_with_starts_anew(tmp_path: Path) -> None:
    result = compile_spec(load_spec(project(tmp_path)), tmp_path / "out", resume=True)
    assert result.exit_code == 0
