"""What the exported files of a result compute, cost and say: compared with each other and with the plan.

Parity is measured anew: the largest difference of two files' outputs over their scale, on seeded random inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pagcp_cli.amended import plan_digest
from pagcp_cli.contents import Contents, contradiction
from pagcp_cli.numbers import value
from pagcp_ir.analyse import analyse
from pagcp_ir.cost import costs, layer_costs
from pagcp_ir.emit.base import error_of, named_outputs
from pagcp_ir.emit.python import imported
from pagcp_ir.program import Program, TensorSpec, example_inputs
from pagcp_ir.program_file import open_program
from pagcp_ir.quiet import quiet
from pagcp_ir.trace import trace
from specs.diagnostics import Diagnostic, PagcpError
from specs.plan import Plan

__all__ = ["exports_report"]

TOLERANCE = 1e-4
BATCHES = (1, 2, 3)
_FILES = {"python": ("model.py", "model.safetensors"), "pt2": ("model.pt2",), "onnx": ("model.onnx",)}
Run = Callable[[tuple[Tensor, ...]], list[Tensor]]


def exports_report(held: Contents) -> tuple[str, list[Diagnostic]]:
    """How far the exported files differ, and what of them contradicts another file."""
    formats = [str(row["format"]) for row in held.evidence["exports"]]
    wrong = list(_inventory(held.folder, formats))
    if wrong or not formats:
        return "", wrong
    if held.spec is None:
        return "not compared: spec.lock.yaml needs the environment", []
    inputs = [TensorSpec(tuple(each.shape), getattr(torch, each.dtype)) for each in held.spec.model.inputs]
    opened: dict[str, Any] = {}
    for name in formats:
        try:
            opened[name] = _OPEN[name](held.folder, inputs)
        except Exception as error:  # noqa: BLE001 (the file is code or a program of any kind)
            told = f"cannot be run: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
            wrong.append(contradiction(held.folder, _FILES[name][-1], told))
    if wrong:
        return "", wrong
    wrong += _hashes(held, opened)
    parity, unlike = _parity(held, {name: run for name, (run, *_) in opened.items()}, inputs)
    told, others = _figures(held, inputs, formats)
    pairs = f"{' and '.join(formats)} agree within {value(parity)}" if len(formats) > 1 else f"{formats[0]} runs"
    return f"{pairs}; {told}", [*wrong, *unlike, *others]


def _inventory(folder: Path, formats: list[str]) -> Iterator[Diagnostic]:
    for name, files in _FILES.items():
        for file in files:
            if (folder / file).is_file() != (name in formats):
                told = "is not there" if name in formats else "is there"
                yield contradiction(folder, "evidence.json", f"says otherwise, but {file} {told}")


def _parity(held: Contents, runs: Mapping[str, Run], inputs: list[TensorSpec]) -> tuple[float, list[Diagnostic]]:
    """The largest difference of any two, and the one that differs from all others, or else both of a pair."""
    free = all("batch" in row["dynamic"] for row in held.evidence["exports"])
    worst: dict[tuple[str, str], float] = dict.fromkeys(combinations(runs, 2), 0.0)
    for batch in BATCHES if free else (2,):
        given = example_inputs(inputs, batch, seed=batch)
        outputs = {name: run(given) for name, run in runs.items()}
        for a, b in worst:
            worst[a, b] = max(worst[a, b], error_of(outputs[a], outputs[b]))
    bad = [pair for pair, error in worst.items() if not error <= TOLERANCE]
    odd = [name for name in runs if bad and all(name in pair for pair in bad)]
    blamed = odd if len(bad) > 1 else sorted({name for pair in bad for name in pair})
    found = []
    for name in blamed:
        pair = next(pair for pair in bad if name in pair)
        other = _FILES[pair[0] if pair[1] == name else pair[1]][-1]
        told = f"gives other outputs than {other}: they differ by {worst[pair]:.2e} of their scale"
        found.append(contradiction(held.folder, _FILES[name][-1], told))
    return max(worst.values(), default=0.0), found


def _hashes(held: Contents, opened: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Each says which plan it is of."""
    for name, (_, says) in opened.items():
        if f"plan.json sha256: {plan_digest(held.plan)}" not in says:
            yield contradiction(held.folder, _FILES[name][0], "says that it is of another plan than plan.json")


def _figures(held: Contents, inputs: list[TensorSpec], formats: list[str]) -> tuple[str, list[Diagnostic]]:
    """Shapes, MACs, parameters and bytes of the network in the file, traced anew, against those of the plan."""
    name = next((name for name in ("python", "pt2") if name in formats), None)
    if name is None:
        return "costs not derived from ONNX", []
    file = _FILES[name][-1]
    try:
        program = _PROGRAM[name](held.folder, inputs)
        channels = analyse(program)
    except PagcpError as error:
        return f"costs not derived: {file} cannot be traced: {error.diagnostics[0].message}", []
    wrong = [*_shapes(held.plan, program), *_names(held.plan, program)]
    if (found := costs(channels)) != held.plan.after:
        wrong.append(f"costs {found}, plan.json says {held.plan.after}")
    sizes = sorted(
        (row.name, row.before.inputs, row.before.outputs, row.before.macs)
        for row in layer_costs(channels, channels.all)
    )
    said = sorted((row.name, row.after.inputs, row.after.outputs, row.after.macs) for row in held.plan.layers)
    if not wrong and sizes != said:
        row = next(iter(sorted({*sizes} ^ {*said})))
        wrong.append(f"has layer `{row[0]}` in another size than plan.json says")
    return "their costs are the plan's", [contradiction(held.folder, file, told) for told in wrong]


def _shapes(plan: Plan, program: Program) -> Iterator[str]:
    tensors = program.tensors()
    for name, dims in plan.tensors.items():
        for dim, kept in dims.items():
            size = sum(last - first + 1 for first, last in kept)
            if name not in tensors:
                yield f"has no `{name}`, which plan.json cuts"
                break
            if dim >= tensors[name].ndim or tensors[name].shape[dim] != size:
                yield f"has `{name}` as {list(tensors[name].shape)}, plan.json keeps {size} of dim {dim}"


def _names(plan: Plan, program: Program) -> Iterator[str]:
    yield from (f"has no `{n}`, which plan.json names as amended" for n in plan.amended if n not in program.tensors())


def _model(folder: Path) -> Any:
    return imported(folder / "model.py").load(folder / "model.safetensors").eval()


def _flat(outputs: Any) -> list[Tensor]:
    return [tensor for _, tensor in named_outputs(outputs) if tensor is not None]


def _run(module: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return _flat(module(*(x.clone() for x in inputs)))


def _python(folder: Path, inputs: list[TensorSpec]) -> tuple[Run, str]:
    return partial(_run, _model(folder)), (folder / "model.py").read_text(encoding="utf-8")


def _pt2(folder: Path, inputs: list[TensorSpec]) -> tuple[Run, str]:
    extra = {"about.txt": ""}
    with quiet():
        module = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    said: Any = extra["about.txt"]
    return partial(_run, module), said.decode() if isinstance(said, bytes) else said


def _onnx(folder: Path, inputs: list[TensorSpec]) -> tuple[Run, str]:
    from pagcp_ir.emit.onnx import opened

    session = opened(folder / "model.onnx")
    takes = [each.name for each in session.get_inputs()]
    names = takes if len(takes) == len(inputs) else _parameters(folder)  # an input that nothing reads is not in it

    def run(given: tuple[Tensor, ...]) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, given, strict=True) if name in takes}
        return [torch.from_numpy(made) for made in session.run(None, feed)]

    meta = session.get_modelmeta()
    digest = meta.custom_metadata_map.get("pagcp.plan_sha256", "")
    return run, meta.description if digest in meta.description else ""


def _parameters(folder: Path) -> list[str]:
    return list(inspect.signature(_model(folder).forward).parameters)


_OPEN: dict[str, Callable[[Path, list[TensorSpec]], tuple[Run, str]]] = {
    "python": _python,
    "pt2": _pt2,
    "onnx": _onnx,
}
_PROGRAM: dict[str, Callable[[Path, list[TensorSpec]], Program]] = {
    "python": lambda folder, inputs: trace(_model(folder), inputs),
    "pt2": lambda folder, inputs: open_program(folder / "model.pt2", inputs),
}
