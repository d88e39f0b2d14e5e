"""model.py and model.safetensors: the network as readable source that needs only torch, and its tensors.

What is written is imported again, on its own, and must give the outputs of the program.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pagcp_ir.emit.base import About, ExportReport, error_of, named_outputs, portable
from pagcp_ir.emit.source import source_of
from pagcp_ir.program import Program
from specs.diagnostics import EmitError

__all__ = ["imported", "write"]

SOURCE, WEIGHTS = "model.py", "model.safetensors"
TOLERANCE = 1e-6


def write(program: Program, folder: Path, about: About) -> ExportReport:
    """Write model.py and model.safetensors. Raises EmitError E601-E604; then neither file is left."""
    program = portable(program)
    module = program.module
    runs = list(_runs(program, module))
    name = str(program.module.meta.get("name", type(program.module).__name__))
    source = source_of(module, name, about, list(_signature(program, runs)), runs[0][1], WEIGHTS)
    paths = (folder / SOURCE, folder / WEIGHTS)
    try:
        paths[0].write_text(source.text, encoding="utf-8", newline="\n")
        emitted = imported(paths[0])
        net = getattr(emitted, source.name)()
        tensors = {name: _tensor(module, name) for name in net.state_dict()}
        save_file(tensors, paths[1])
        loaded = emitted.load(paths[1])
        parity = max(error_of(expected, _run(loaded, inputs)) for inputs, expected in runs)
        if not parity <= TOLERANCE:
            raise EmitError.one(
                "E604", f"{SOURCE} does not give the outputs of the network: relative error {parity:.2e}"
            )
    except BaseException as error:
        for path in paths:
            path.unlink(missing_ok=True)
        if isinstance(error, (EmitError, OSError)) or not isinstance(error, Exception):
            raise
        raise EmitError.one("E604", f"{SOURCE} does not run as written: {type(error).__name__}: {error}") from error
    return ExportReport((SOURCE, WEIGHTS), parity, ("batch",) if len(runs) > 1 else ())


def _runs(program: Program, module: nn.Module) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
    """Inputs and outputs at batch 2, and at batch 3 where the network takes it."""
    inputs = program.example_inputs(2)
    yield inputs, _run(module, inputs)
    try:
        inputs = program.example_inputs(3)
        yield inputs, _run(module, inputs)
    except RuntimeError:  # a size in the network says 2
        return


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return module(*(x.clone() for x in inputs))


def imported(path: Path) -> Any:
    """The file as a module of its own that sys.modules never sees."""
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


def _tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    value = getattr(module.get_submodule(owner), last)
    assert isinstance(value, Tensor)
    return value.detach().clone(memory_format=torch.contiguous_format)


def _signature(program: Program, runs: list[tuple[tuple[Tensor, ...], Any]]) -> Iterator[str]:
    names = [str(n.target) for n in program.module.graph.nodes if n.op == "placeholder"]
    for name, two, three in zip(names, runs[0][0], runs[-1][0], strict=False):
        yield f"Input {name}: {_shape(two, three)}"
    for (name, two), (_, three) in zip(named_outputs(runs[0][1]), named_outputs(runs[-1][1]), strict=True):
        if isinstance(two, Tensor):
            yield (f"Output {name}: {_shape(two, three)}" if name != "output" else f"Output: {_shape(two, three)}")


def _shape(two: Tensor, three: Tensor) -> str:
    """The shape at batch N, from those at batch 2 and 3."""
    sizes = []
    for a, b in zip(two.shape, three.shape, strict=True):
        times = b - a
        sizes.append(str(a) if times == 0 else "N" if times == 1 else f"{times}N")
    return f"{str(two.dtype).removeprefix('torch.')} [{', '.join(sizes)}]"
