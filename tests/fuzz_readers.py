"""`make fuzz`, second part: files that were damaged, edited or made to harm, for every reader of files.

    python -m tests.fuzz_readers --inputs 2000 --seed 0 --only plan

Each input is a valid file that was mutated: cut off, bits flipped, types and sizes swapped, keys doubled, nested deep,
names that leave the folder. A reader takes it or refuses it by a PagcpError that names the file, within LIMIT seconds
and MEMORY bytes; anything else is a finding, whose input is written where it can be looked at.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import torch
from safetensors.torch import save
from torch import nn

from pagcp_cli.amended import plan_digest, read_amended
from pagcp_cli.summaries import diff, diff_graphs
from pagcp_cli.weights import load_weights
from pagcp_ir.analyse import analyse
from pagcp_ir.planning import make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.journal import Journal
from specs.diagnostics import PagcpError
from specs.plan import Plan, read_plan
from specs.spec import load_spec
from tests.mutate import mutated_bytes, mutated_json, mutated_text, mutated_zip
from tests.running import EXAMPLES

__all__ = ["READERS", "judged", "seeds"]

LIMIT = 20.0
LINUX = sys.platform == "linux"
MEMORY = 2 * 2**30
"""Bytes of address space that one input may take besides what is there."""
Reader = Callable[[Path], object]
Mutate = Callable[[bytes, random.Random], bytes]


def _spec(path: Path) -> object:
    return load_spec(path)


def _plan(path: Path) -> object:

    return read_plan(path)


def _journal(path: Path) -> object:
    """As --resume does: a copy, since the last line may be cut off."""

    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    with Journal(copy, path.with_suffix(".rows")) as journal:
        return journal.known


def _pt2(path: Path) -> object:

    return diff(path, path), diff_graphs(path, path)


def _weights(path: Path) -> object:

    return load_weights(_net(), path, str(path))


def _amended(path: Path) -> object:
    """plan.safetensors beside a plan that names a tensor of it."""

    return read_amended(path.with_suffix(".json"), replace(_a_plan(), amended=("0.weight",)))


READERS: dict[str, tuple[str, Reader, Mutate]] = {
    "spec": (".yaml", _spec, mutated_text),
    "plan": (".json", _plan, mutated_json),
    "journal": (".jsonl", _journal, mutated_json),
    "onnx": (".onnx", _pt2, mutated_bytes),
    "pt2": (".pt2", _pt2, mutated_zip),
    "safetensors": (".safetensors", _weights, mutated_bytes),
    "weights": (".pt", _weights, mutated_zip),
    "amended": (".safetensors", _amended, mutated_bytes),
}
"""By name: the suffix of the file, who reads it, and how it is mutated."""
SPEC = (EXAMPLES / "digits.yaml").read_text(encoding="utf-8")
JOURNAL = "".join(
    json.dumps(record) + "\n"
    for record in (
        {"kind": "start", "spec": "a", "network": "b", "calibration": "c", "versions": {}, "code": {}, "resolved": {}},
        {"kind": "pass_start", "name": "pagcp", "number": 0},
        {"kind": "answer", "key": "k", "numbers": {"t": 0.5}},
        {"kind": "answer", "key": "m", "totals": {"t": 1.5}, "counts": {"t": 8}, "unfit": {}, "done": 1}
        | {"sizes": {"t": [8]}, "images": 8, "seconds": 0.1, "rows": {"at": 0, "sizes": {"t": 8}, "crc": 5}},
        {"kind": "evaluation", "group": "g", "ratio": 0.1, "losses": {"t": 0.5}, "seconds": 0.1},
        {"kind": "epoch", "epoch": 1, "losses": {"t": 0.25}, "best": True, "seconds": 1.5},
    )
)


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


@cache
def _a_plan() -> Plan:
    program = trace(_net(), [TensorSpec((1, 1, 4, 4))])
    channels = analyse(program)
    keep = channels.all.copy()
    keep[channels.groups[0].units[1]] = False
    return make_plan(program, channels, keep)


def _an_onnx() -> bytes:
    helper, weight = onnx.helper, onnx.numpy_helper.from_array(_net().state_dict()["0.weight"].numpy(), "0.weight")
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", c, 4, 4]) for n, c in (("x", 1), ("y", 4))]
    node = helper.make_node("Conv", ["x", "0.weight"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", info[:1], info[1:], [weight])
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return made


def seeds() -> dict[str, bytes]:
    """A valid file for each reader."""
    net, pt2, weights = _net(), io.BytesIO(), io.BytesIO()
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 4, 4),), dynamic_shapes=free), pt2)
    torch.save(net.state_dict(), weights)
    tensors = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    return {
        "spec": SPEC.encode(),
        "plan": _a_plan().to_json().encode(),
        "journal": JOURNAL.encode(),
        "onnx": _an_onnx(),
        "pt2": pt2.getvalue(),
        "safetensors": save(tensors),
        "weights": weights.getvalue(),
        "amended": save(tensors, metadata={"plan": plan_digest(replace(_a_plan(), amended=("0.weight",)))}),
    }


class _TooLong(BaseException):
    """The time of an input is over."""


@contextmanager
def _bounded() -> Iterator[None]:
    """LIMIT seconds, and MEMORY bytes more than there are now."""

    def over(*_: object) -> None:
        raise _TooLong

    before, old = signal.signal(signal.SIGALRM, over), resource.getrlimit(resource.RLIMIT_AS)
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if LINUX else 2**45
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, old[1]))
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.signal(signal.SIGALRM, before)


def judged(name: str, data: bytes, folder: Path) -> tuple[str, str]:
    """What the reader makes of these bytes: ("read" | "refused" | "FINDING", what is wrong)."""
    suffix, reader, _ = READERS[name]
    path = folder / f"file{suffix}"
    (folder / "digits.safetensors").touch()  # the spec names it; nothing reads it
    path.write_bytes(data)
    try:
        with _bounded(), warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            reader(path)
    except PagcpError as error:
        lost = [d for d in error.diagnostics if path.name not in d.where + d.message and "file." not in d.where]
        return ("FINDING", f"no place: {lost[0]}") if lost else ("refused", "")
    except _TooLong:
        return "FINDING", f"took more than {LIMIT:g} s"
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return "FINDING", f"{type(error).__name__}: {str(error)[:200]}"
    return "read", ""


def fuzz(name: str, inputs: int, seed: int, valid: bytes, kept: Path) -> int:
    """Judge so many mutated inputs of one reader; how many findings."""
    mutate, counts, found, began = READERS[name][2], Counter[str](), set[str](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pagcp-fuzz-") as scratch:
        verdict, why = judged(name, valid, Path(scratch))
        if verdict != "read":
            print(f"{name}: the valid file is not read: {why}")
            return 1
        for number in range(inputs):
            data = mutate(valid, random.Random(f"{name} {seed} {number}"))
            verdict, why = judged(name, data, Path(scratch))
            counts[verdict] += 1
            kind = why.partition("\n")[0][:60]
            if verdict == "FINDING" and kind not in found:
                found.add(kind)
                place = kept / f"{name}-{seed}-{number}{READERS[name][0]}"
                place.write_bytes(data)
                print(f"{name}, input {number}: {why}\n  kept as {place}", flush=True)
    told = ", ".join(f"{counts[key]} {key}" for key in ("read", "refused", "FINDING"))
    print(f"{name}: {inputs} inputs: {told}, {time.monotonic() - began:.0f} s", flush=True)
    return counts["FINDING"]


def main() -> int:
    """1 when a reader did anything else than to read or to refuse."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_readers", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=READERS, action="append")
    asked = parser.parse_args()
    kept = Path(tempfile.mkdtemp(prefix="pagcp-findings-"))
    valid = seeds()
    found = sum(fuzz(name, asked.inputs, asked.seed, valid[name], kept) for name in asked.only or READERS)
    if not any(kept.iterdir()):
        kept.rmdir()
    print(f"seed {asked.seed}, {found} findings")
    return int(bool(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
