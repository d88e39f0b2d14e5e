"""A .pt2 file as a Program: what torch.export wrote, cut like any other network, without the code that built it.

Files with pickled objects are refused before they are read. torch evaluates the size formulas of a file, though: take
programs from sources that you trust.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from pagcp_ir.exported import graph_module_of, tensors_of
from pagcp_ir.program import TRACE_BATCH, Program, TensorSpec
from pagcp_ir.quiet import quiet, reason_of
from pagcp_ir.trace import close, program_of
from pagcp_ir.usable import require_usable
from specs.diagnostics import TraceError

__all__ = ["inputs_of_program", "open_program"]

_TRAINS = {
    "aten.batch_norm.default": "training",
    "aten.dropout.default": "train",
    "aten.feature_dropout.default": "train",
}
# what zipfile and the look at what it holds raise of files that were made to harm
_BROKEN = (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError)
_SAVE = "write it with torch.export.save(torch.export.export(model.eval(), inputs), path)"
_DYNAMIC = "export it with dynamic_shapes={{{name!r}: {{0: torch.export.Dim.DYNAMIC}}}}"


def open_program(path: Path, inputs: Sequence[TensorSpec] | None = None, where: str = "") -> Program:
    """The program in that file. `inputs`: what it is to be run on, its own inputs where None is given.

    `where`: the spec's line that names the file. Raises TraceError: T203 other inputs, T208 one batch size only,
    T209 not a program in eval mode, and what `graph_module_of` raises.
    """
    exported = _read(path, where)
    require_usable(exported.named_parameters(), exported.named_buffers(), where)
    _require_eval(exported, path, where)
    own = _own_inputs(exported, path, where)
    given = own if inputs is None else tuple(inputs)
    _require_inputs(exported, own, given, path, where)
    graph = graph_module_of(exported, _class_name(exported))
    try:
        with quiet():  # a graph module prints its source when it fails
            program = program_of(graph, _class_name(exported), given, None, tensors=tensors_of(exported))
            same = _same(exported, program, own)
    except (RuntimeError, ValueError) as error:
        reason = f": {reason_of(error)}"
        same = False
    else:
        reason = ""
    if not same:
        _refuse_batch(exported, own, path, where, reason)
    return replace(program, route="pt2")


def inputs_of_program(path: Path) -> tuple[tuple[TensorSpec, ...], bool]:
    """What the program in that file takes, and whether its batch size is free. TraceError T209: no such program."""
    exported = _read(path, str(path))
    own = _own_inputs(exported, path, str(path))
    return own, not any(isinstance(n.meta["val"].shape[0], int) for n in _placeholders(exported))


def _read(path: Path, where: str) -> ExportedProgram:
    """Raises TraceError T209 for whatever is wrong with the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = _wrong(archive, path)
    except FileNotFoundError as error:
        raise TraceError.one("T209", f"there is no file {path.name}", where) from error
    except _BROKEN as error:
        found = f"{path.name} is not a torch.export program: {reason_of(error)}", _SAVE
    if found is not None:
        raise TraceError.one("T209", found[0], where, found[1])
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # zip, schema and version errors of any type
        hint = f"a .pt2 file belongs to the torch version that wrote it; this is {torch.__version__}"
        raise TraceError.one("T209", f"{path.name} cannot be read: {reason_of(error)}", where, hint) from error


def holds_pickles(path: Path) -> str:
    """Why the file may not be given to torch.export.load, which would unpickle what is in it; "" where it may."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = _is_pickled(archive, {n.partition("/")[2]: n for n in archive.namelist()})
    except _BROKEN as error:
        return str(error).strip() or type(error).__name__
    return "it holds pickled objects" if pickled else ""


def _wrong(archive: zipfile.ZipFile, path: Path) -> tuple[str, str] | None:
    """What keeps an archive from being one program without pickled objects, and a hint."""
    files = {n.partition("/")[2]: n for n in archive.namelist()}
    models = sorted(n.removeprefix("models/").removesuffix(".json") for n in files if n.startswith("models/"))
    if len(models) > 1:
        hint = "save the one that is to be pruned with torch.export.save"
        return f"{path.name} holds several programs: {', '.join(models)}", hint
    if not models and any(n.startswith("data/aotinductor/") for n in files):
        hint = "save it with torch.export.save, before it is compiled"
        return f"{path.name} holds compiled code, not a graph that can be cut", hint
    if not models:
        return f"{path.name} is not a torch.export program of this version of torch", _SAVE
    return (f"{path.name} holds pickled objects", _SAVE) if _is_pickled(archive, files) else None


def _is_pickled(archive: zipfile.ZipFile, files: Mapping[str, str]) -> bool:
    """Whether torch.export.load would unpickle more than tensors: in tensors of odd types, objects, example inputs."""
    for name, member in files.items():
        if re.fullmatch(r"data/(weights|constants)/.*_config\.json", name):
            config = json.loads(archive.read(member))["config"].values()
            if any(c["use_pickle"] or c["path_name"].startswith(("custom_obj", "opaque_obj")) for c in config):
                return True
        if re.fullmatch(r"data/(weights|constants)/.*\.pt", name):
            return True
        if name.startswith("data/sample_inputs/"):
            try:
                torch.load(io.BytesIO(archive.read(member)), weights_only=True)
            except (pickle.UnpicklingError, EOFError):
                return archive.getinfo(member).file_size > 0
    return False


def _require_eval(exported: ExportedProgram, path: Path, where: str) -> None:
    for node in exported.graph.nodes:
        flag = _TRAINS.get(str(node.target))
        if flag is None or not isinstance(node.target, OpOverload):
            continue
        names = [a.name for a in node.target._schema.arguments]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        if given.get(flag) and given.get("running_mean", True) is not None:
            told = (
                f"{path.name} was exported in train mode: `{node.name}` is {str(node.target).split('.')[1]} in training"
            )
            raise TraceError.one("T209", told, where, "call model.eval() before torch.export.export")


def _placeholders(exported: ExportedProgram) -> list[fx.Node]:
    user = set(exported.graph_signature.user_inputs)
    return [n for n in exported.graph.nodes if n.op == "placeholder" and n.name in user]


def _own_inputs(exported: ExportedProgram, path: Path, where: str) -> tuple[TensorSpec, ...]:
    """The inputs that it was exported with, free sizes at the values that they had."""
    found = []
    for node in _placeholders(exported):
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            told = f"{path.name}: the input {node.name} is no tensor"
            raise TraceError.one("T209", told, where, "export the network with tensors as its only inputs")
        found.append(TensorSpec(tuple(_hint(s) for s in value.shape), value.dtype))
    return tuple(found)


def _hint(size: Any) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else TRACE_BATCH


def _require_inputs(
    exported: ExportedProgram, own: Sequence[TensorSpec], given: Sequence[TensorSpec], path: Path, where: str
) -> None:
    nodes = _placeholders(exported)
    if len(own) != len(given):
        names = ", ".join(n.name for n in nodes)
        told = f"{path.name} takes {len(own)} inputs ({names}), got {len(given)}"
        raise TraceError.one("T203", told, where, "give one shape per input under model.inputs")
    for node, one, two in zip(nodes, own, given, strict=True):
        fixed = [isinstance(size, int) for size in node.meta["val"].shape]
        same = len(one.shape) == len(two.shape) and one.dtype == two.dtype
        if not same or any(f and a != b for f, a, b in list(zip(fixed, one.shape, two.shape, strict=True))[1:]):
            told = f"{path.name} takes {_text(one)} as {node.name}, got {_text(two)}"
            raise TraceError.one("T203", told, where, "write the shape that it was exported with under model.inputs")


def _text(spec: TensorSpec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')} {list(spec.shape)}"


def _class_name(exported: ExportedProgram) -> str:
    """The class of the network, as far as the file tells."""
    for node in exported.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if stack and stack[0][0] == "" and isinstance(stack[0][1], str):
            return stack[0][1].rpartition(".")[2]
    return "Model"


def _same(exported: ExportedProgram, program: Program, own: Sequence[TensorSpec]) -> bool:
    """Whether the program computes at batch 2 and 3 what the file does, at its own batch size where that is fixed."""
    reference = exported.module(check_guards=False)
    free = all(not isinstance(n.meta["val"].shape[0], int) for n in _placeholders(exported))
    for batch in (TRACE_BATCH, TRACE_BATCH + 1):
        step = batch if free else own[0].shape[0]
        parts = -(-batch // step)
        inputs = program.example_inputs(parts * step)
        with torch.no_grad():
            pieces = [pytree.tree_leaves(reference(*(x[i * step :][:step] for x in inputs))) for i in range(parts)]
            got = pytree.tree_leaves(program.module(*(x[:batch] for x in inputs)))
        for index, value in enumerate(got):
            found = [piece[index] for piece in pieces]
            if isinstance(value, Tensor) and not close(_joined(found, free)[: None if free else batch], value):
                return False
    return True


def _joined(pieces: list[Tensor], free: bool) -> Tensor:
    return pieces[0] if free or pieces[0].ndim == 0 else torch.cat(pieces)


def _refuse_batch(exported: ExportedProgram, own: Sequence[TensorSpec], path: Path, where: str, reason: str) -> None:
    name = _placeholders(exported)[0].name if own else "x"
    told = f"{path.name} runs at batch size {own[0].shape[0] if own else 1} only{reason}"
    raise TraceError.one("T208", told, where, _DYNAMIC.format(name=name))
