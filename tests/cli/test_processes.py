"""compile in two processes: the same cuts to the byte, one voice, one end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from safetensors.torch import load_file

from pagcp_cli.driver import compile_spec
from pagcp_cli.main import main
from passes.journal import read_journal
from specs.spec import load_spec
from tests.launching import launched
from tests.running import EXAMPLES, ROOT, Ran

# 99 images in batches of 32, 32 and 35: one process gets two batches, the other one
SETTINGS = {
    "data": {"factory": "few:datasets", "batch_size": 32, "calibration": {"samples": 99}},
    "budgets": {"macs": "90%"},
    "passes": [
        {"pagcp": {"criterion": "l1", "search": "certified", "grid": [0.2, 0.4], "tolerance": 0.5, "total": 9}},
        {"finetune": {"epochs": 1}},
    ],
    "export": ["python"],
}
FEW = """
import os
from torch.utils.data import Subset
from digits import datasets as whole


class Broken:
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if os.environ.get("RANK") == "1" and index == 40:
            raise OSError("no such disk")
        return self.data[index]


def datasets():
    return {name: Subset(data, range(100)) for name, data in whole(copies=1).items()}


def broken():
    return {name: Broken(data) for name, data in datasets().items()}
"""


def spec_file(folder: Path, **changed: object) -> Path:
    """The digits example with other settings, in a folder of its own."""
    settings = yaml.safe_load((EXAMPLES / "digits.yaml").read_text()) | SETTINGS | changed
    for task in settings["tasks"]:
        task["guarantee"] = {"max_drop": "100%"}
    for name in ("digits.py", "digits.safetensors"):
        (folder / name).write_bytes((EXAMPLES / name).read_bytes())
    (folder / "few.py").write_text(FEW)
    (folder / "two.yaml").write_text(yaml.safe_dump(settings))
    return folder / "two.yaml"


def in_two(*arguments: str, cwd: Path) -> Ran:
    """Run the installed command as torchrun starts it."""
    script = Path(sys.executable).with_name("pagcp")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*torchrun, str(script), *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def as_command(*arguments: str, cwd: Path) -> Callable[[], Ran]:
    """The command line inside a process that is there, with its own files for what it says."""

    def body() -> Ran:
        os.chdir(cwd)
        texts = [cwd / f"{name}{os.environ['RANK']}" for name in ("out", "err")]
        for number, text in enumerate(texts, 1):
            os.dup2(os.open(text, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr, sys.argv = os.fdopen(1, "w"), os.fdopen(2, "w"), ["pagcp", *arguments]
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.stdout.flush()
        return Ran(code, *(text.read_text() for text in texts))

    return body


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    spec = spec_file(tmp_path)
    ran = in_two("compile", spec.name, "-o", "two", cwd=tmp_path)
    assert ran.code == 0, ran.err
    launched(lambda: compile_spec(load_spec(spec), tmp_path / "one").missed, 1)
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "plan.json").read_bytes() == (two / "plan.json").read_bytes()
    tensors = load_file(two / "model.safetensors")
    assert all(tensor.equal(tensors[name]) for name, tensor in load_file(one / "model.safetensors").items())
    assert ran.out.count("verified ") == 1
    assert ran.err.count("finetune: started") == 1
    told = [[{**r, "seconds": 0} for r in read_journal(out / "journal.jsonl")] for out in (one, two)]
    assert told[0] == told[1]


def test_what_fails_in_one_process_ends_both_and_is_told_once(tmp_path: Path) -> None:
    data = {"factory": "few:broken", "batch_size": 32}
    spec = spec_file(tmp_path, data=data)
    first, second = launched(as_command("compile", spec.name, "-o", "out", cwd=tmp_path))
    line = FEW.splitlines().index('            raise OSError("no such disk")') + 1
    told = "the calibration split raised OSError at batch 1: no such disk (in process 1)"
    assert first.err == f"few.py:{line}  error[D704]: {told}\n"
    assert second.err == ""
    assert (first.code, second.code, first.out, second.out) == (1, 1, "", "")
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_in_all_processes_is_told_once(tmp_path: Path) -> None:
    first, second = launched(as_command("compile", "nowhere.yaml", "--json", cwd=tmp_path))
    assert (first.code, second.code) == (2, 2)
    assert first.err.startswith("nowhere.yaml  error[S100]: ")
    assert '"code": "S100"' in first.out
    assert (second.out, second.err) == ("", "")
