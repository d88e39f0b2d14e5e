"""Data, weights and disks that fail: told with a code, a place and a hint, never as a bug; what may pass goes on."""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import passes.journal as journal_module
from pagcp_cli import compile_spec, load_spec
from pagcp_cli.folder import staged
from pagcp_cli.storage import storage_failure
from passes.oracle import RealOracle
from specs.diagnostics import DataError, EmitError, PagcpError, SpecError, TraceError
from tests.cli.projects import project, weights
from tests.running import ROOT, pagcp

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.block(x)).mean((2, 3)))


def build(dtype="float32"):
    return Net().to(getattr(torch, dtype))


class Data:
    def __init__(self, seed, bad="", size=24):
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 1, 6, 6, generator=draw)
        self.y = torch.randint(0, 3, (size,), generator=draw)
        self.bad = bad

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if self.bad == "raises" and index == 17:
            raise ValueError("a broken file")
        x = self.x[index]
        if self.bad == "odd" and index >= 8:
            x = x[:, :1, :1]
        return x.to(torch.int64) if self.bad == "integers" else x, self.y[index]


def data(where="", bad="", seed=0, size=24):
    splits = ("train", "calibration", "validation", "test")
    return {s: Data(seed * (s == where) + n, bad * (s == where), size) for n, s in enumerate(splits)}


def matrix(output, target):
    return torch.ones(3)


def interrupts(output, target):
    raise KeyboardInterrupt
"""
SPEC = """version: 1
model: {factory: net:build, weights: net.safetensors, inputs: [[1, 1, 6, 6]]}
data: {factory: net:data, batch_size: 8}
tasks: [{name: t, loss: cross_entropy, metric: {name: MulticlassAccuracy, num_classes: 3}}]
budgets: {macs: 70%}
passes: [{pagcp: {criterion: l1, swaps: 0}}, {finetune: {epochs: 2}}]
export: [python]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return project(tmp_path, SPEC, NET)


def failure(spec: Path, *overrides: str, resume: bool = False) -> PagcpError:
    """How the compile fails; nothing is written then, and what was there stays."""
    before = {path: path.read_bytes() for path in spec.parent.iterdir() if path.is_file()}
    sys.modules.pop("net", None)
    with pytest.raises(PagcpError) as caught:
        compile_spec(load_spec(spec, overrides), spec.parent / "out", resume=resume)
    sys.modules.pop("net", None)
    assert not (spec.parent / "out").exists()
    assert {path: path.read_bytes() for path in before} == before
    return caught.value


def test_data_that_the_network_does_not_take(spec: Path) -> None:
    told = str(failure(spec, "data.args={where: train, bad: integers}"))
    assert told.startswith(
        "error[D707]: train split, batch 0: the network does not take int64[2, 1, 6, 6]: RuntimeError"
    )
    assert told.endswith(
        "  hint: model.inputs of the spec is float32[N, 1, 6, 6]; convert in the dataset, as in x.float()"
    )


@pytest.mark.parametrize(
    ("split", "told"), [("validation", "the validation split"), ("calibration", "calibration split, batch 1")]
)
def test_one_batch_of_another_size(spec: Path, split: str, told: str) -> None:
    """A convolution without padding does not take 1x1 images."""
    net = spec.parent / "net.py"
    net.write_text(NET.replace("nn.Conv2d(8, 8, 3, padding=1)", "nn.Conv2d(8, 8, 3)"))
    text = str(failure(spec, f"data.args={{where: {split}, bad: odd}}"))
    assert re.match(rf"error\[D707\]: {told}: the network does not take float32\[[28], 1, 1, 1\]: RuntimeError", text)


def test_a_dataset_that_raises_names_split_batch_and_line(spec: Path) -> None:
    line = 1 + NET[: NET.index("raise ValueError")].count("\n")
    for workers in (0, 1):
        told = str(failure(spec, "data.args={where: calibration, bad: raises}", f"data.workers={workers}"))
        assert told == f"net.py:{line}  error[D704]: the calibration split raised ValueError at batch 2: a broken file"


def test_a_metric_of_a_wrong_shape(spec: Path) -> None:
    told = str(failure(spec, "tasks.0.metric=net:matrix", "tasks.0.higher_is_better=true"))
    assert told.startswith("error[D722]: metric net:matrix of task 't' must give one number, got shape [3]")


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), ""),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), ""),
        (MemoryError(), ""),
    ],
)
def test_memory_that_ran_out(spec: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(RealOracle, "_values", fail)
    told = failure(spec)
    assert isinstance(told, DataError)
    assert str(told).startswith("error[D717]: memory ran out at ")
    assert str(told).endswith("\n  hint: lower data.batch_size or data.workers, or give the process more memory")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_parameters_that_are_not_of_single_precision(spec: Path, dtype: str) -> None:
    told = failure(spec, f"model.args={{dtype: {dtype}}}", "model.weights=null")
    assert isinstance(told, TraceError)
    assert str(told).startswith(f"{spec}:2:18  error[T210]: stem.weight and ")
    assert f"more parameters are {dtype}: " in str(told)
    assert "\n  hint: " in str(told)


def test_weights_in_half_precision_are_read_into_a_network_that_is_not(spec: Path) -> None:
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in weights().items()}
    save_file(half, spec.parent / "net.safetensors")
    assert compile_spec(load_spec(spec), spec.parent / "out").exit_code == 0


def test_weights_that_are_not_finite(spec: Path) -> None:
    tensors = weights()
    tensors["block.weight"][0, 0, 0, 0] = torch.nan
    tensors["norm.running_var"][:3] = torch.inf
    save_file(tensors, spec.parent / "net.safetensors")
    told = str(failure(spec)).replace(str(spec), "net.yaml")
    hint = "\n  hint: the training diverged, or the file is damaged: take an earlier checkpoint"
    assert told == (
        f"net.yaml:2:38  error[T211]: block.weight holds NaN, in 1 of 576 values{hint}\n"
        f"net.yaml:2:38  error[T211]: norm.running_var holds infinity, in 3 of 8 values{hint}"
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run to `out` that was stopped in its search."""
    spec, path = project(tmp_path_factory.mktemp("stopped"), SPEC, NET), list(sys.path)

    def stop(kind: str, fields: object) -> None:
        if kind == "evaluation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_spec(load_spec(spec), spec.parent / "out", progress=stop)
    sys.modules.pop("net", None)
    sys.path[:] = path  # a copy of the project is another one
    return spec


@pytest.fixture
def again(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(stopped.parent, tmp_path / "copy")
    return tmp_path / "copy" / stopped.name


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("change", ["seed: 9", "size: 25"])
def test_other_data_is_another_run(again: Path, split: str, change: str) -> None:
    code = again.parent / "net.py"
    code.write_text(code.read_text())  # the same
    name, _, value = change.partition(": ")
    net = NET.replace(
        f"{name}=0" if name == "seed" else f"{name}=24):\n    splits",
        f"{name}={value}" + "):\n    splits" * (name == "size"),
    )
    net = net.replace('where=""', f'where="{split}"', 1)
    if name == "size":
        net = net.replace("bad * (s == where), size)", "bad * (s == where), size if s == where else 24)")
    code.write_text(net)
    told = str(failure(again, resume=True))
    assert (
        told
        == f"error[S120]: the interrupted run is on other data: {split}\n  hint: --force without --resume starts anew"
    )


def test_a_journal_that_was_edited(again: Path) -> None:
    journal = again.parent / ".out.partial" / "result" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if '"answer"' in line)
    record = json.loads(lines[number])
    lines[number] = json.dumps({**record, "totals": None}) + "\n"
    journal.write_text("".join(lines))
    ran = pagcp("compile", again, "-o", again.parent / "out", "--resume", cwd=again.parent)
    assert (ran.code, ran.out) == (2, "")
    assert (
        f"{journal}:{number + 1}  error[S123]: this line of the journal must have totals as an object, got n" in ran.err
    )
    assert journal.read_text() == "".join(lines)


def test_a_full_disk_while_the_journal_grows(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def full(self: object, record: dict[str, object]) -> None:
        written.append(record)
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, record)

    append = journal_module.Journal._append
    monkeypatch.setattr(journal_module.Journal, "_append", full)
    told = failure(spec)
    assert isinstance(told, EmitError)
    assert str(told) == (
        f"error[E614]: cannot write {spec.parent / 'out'}: No space left on device\n"
        "  hint: make room there, or choose another -o on another disk"
    )
    monkeypatch.undo()
    compile_spec(load_spec(spec), spec.parent / "out", resume=True)
    assert [path.name for path in spec.parent.iterdir() if "partial" in path.name] == []


def test_what_libraries_say_of_a_full_disk() -> None:
    assert storage_failure(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert storage_failure(RuntimeError("I/O error: No space left on device (os error 28)")) is not None
    torch_says = "[enforce fail at inline_container.cc:664] . unexpected pos 320 vs 214"
    wrapped = EmitError.one("E605", "torch.export cannot export the network")
    wrapped.__cause__ = RuntimeError(torch_says)
    assert storage_failure(wrapped) == "No space left on device"
    assert storage_failure(OSError(errno.ENOENT, "No such file")) is None
    assert storage_failure(RuntimeError("shapes differ")) is None


def test_the_second_run_to_a_folder_says_who_holds_it(spec: Path) -> None:
    import os
    import socket

    with staged(spec.parent / "out", False), pytest.raises(SpecError) as caught:
        compile_spec(load_spec(spec), spec.parent / "out")
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert str(caught.value) == (
        f"error[S119]: another run is writing {spec.parent / 'out'}: {owner}\n  hint: wait for it, or choose another -o"
    )


def test_an_interrupt_in_the_users_code_ends_with_130(spec: Path) -> None:
    ran = pagcp("compile", spec, "-o", spec.parent / "out", "--set", "tasks.0.loss=net:interrupts", cwd=spec.parent)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "interrupted; nothing was written"


@pytest.mark.parametrize("graph", [(), ("--graph",)])
def test_a_damaged_program_is_told_in_one_line(tmp_path: Path, graph: tuple[str, ...]) -> None:
    """torch.export logs a traceback of its own, and would unpickle what a file holds."""
    shutil.copy(ROOT / "tests" / "corpus" / "pt2" / "leaves_the_folder.pt2", tmp_path / "a.pt2")
    ran = pagcp("diff", "a.pt2", "a.pt2", *graph, cwd=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert "a.pt2" in ran.err
    assert "error[T209]: " in ran.err if graph else "error[E609]: " in ran.err
    assert "Traceback" not in ran.err
