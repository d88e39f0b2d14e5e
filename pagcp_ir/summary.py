"""A network of torch -> GraphSummary: its layers by parameter name, with widths, MACs of one sample, parameters.

Of a .pt2 the file alone is read, so that any .pt2 can be compared, whoever wrote it. MACs: a convolution multiplies its
whole weight once per output position (per input position when transposed), a linear layer once per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from pagcp_ir.channels import ChannelGraph
from pagcp_ir.cost import costs, layer_costs
from pagcp_ir.program_file import holds_pickles
from pagcp_ir.quiet import quiet
from specs.diagnostics import EmitError
from specs.diff import GraphSummary, LayerRow
from specs.plan import Costs

__all__ = ["summary_of_channels", "summary_of_export", "summary_of_pt2"]

_KINDS = {
    "aten.conv1d": "Conv1d",
    "aten.conv2d": "Conv2d",
    "aten.conv3d": "Conv3d",
    "aten.conv_transpose1d": "ConvTranspose1d",
    "aten.conv_transpose2d": "ConvTranspose2d",
    "aten.conv_transpose3d": "ConvTranspose3d",
    "aten.linear": "Linear",
    "aten.addmm": "Linear",
    "aten.mm": "Linear",
    "aten.convolution": "Conv",
}
_WEIGHT_AT = {"aten.addmm": 2}


def summary_of_channels(channels: ChannelGraph, title: str) -> GraphSummary:
    """The network that the channel graph describes."""
    sizes = {name: math.prod(info.shape) * info.itemsize for name, info in channels.tensors.items()}
    rows = []
    for layer, cost in zip(channels.layers, layer_costs(channels, channels.all), strict=True):
        now = cost.before
        bytes_ = sum(sizes[name] for name in layer.tensors)
        rows.append(LayerRow(layer.name, layer.kind, now.inputs, now.outputs, now.macs, now.params, bytes_))
    return GraphSummary(title, tuple(rows), costs(channels))


def summary_of_pt2(path: str | Path, title: str | None = None) -> GraphSummary:
    """The summary of a .pt2 file. Raises EmitError E609 when torch.export cannot load it."""
    try:
        if told := holds_pickles(Path(path)):
            raise ValueError(told)
        with quiet():  # it logs a traceback of its own
            program = torch.export.load(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EmitError.one(
            "E609",
            f"torch.export cannot load the program: {reason}",
            str(path),
            f"a .pt2 file belongs to the torch version that wrote it; this is {torch.__version__}",
        ) from error
    return summary_of_export(program, title or str(path))


def summary_of_export(program: ExportedProgram, title: str) -> GraphSummary:
    """Layers in call order; a layer that is called twice occurs twice, its parameters count once in the total."""
    rows = tuple(_rows(program))
    parameters = {id(p): p for p in program.parameters()}
    tensors = parameters | {id(b): b for b in program.buffers()}
    total = Costs(
        macs=sum(row.macs or 0 for row in rows),
        params=sum(p.numel() for p in parameters.values()),
        bytes=sum(t.numel() * t.element_size() for t in tensors.values()),
    )
    return GraphSummary(title=title, layers=rows, costs=total)


def _rows(program: ExportedProgram) -> Iterator[LayerRow]:
    names = _tensor_names(program)
    batch = _batch(program)
    for node in program.graph.nodes:
        op = str(node.target).rsplit(".", 1)[0]
        kind = _KINDS.get(op) if node.op == "call_function" else None
        weight = _source(node.args[_WEIGHT_AT.get(op, 1)]) if kind else None
        if kind is None or weight is None or weight.name not in names:
            continue
        tensors = [_source(a) for a in node.args]
        own = {names[t.name]: _shape(t) for t in tensors if t is not None and t.name in names}
        name = names[weight.name].removesuffix(".weight")
        params = sum(math.prod(shape) for shape in own.values())
        size = sum(t.meta["val"].element_size() * math.prod(_shape(t)) for t in _distinct(tensors, names))
        yield replace(_row(node, name, kind, weight, params, batch), bytes=size)


def _distinct(nodes: Iterable[fx.Node | None], names: Mapping[str, str]) -> Iterable[fx.Node]:
    """Those that are tensors of the network, each once."""
    return {names[node.name]: node for node in nodes if node is not None and node.name in names}.values()


def _row(node: fx.Node, name: str, kind: str, weight: fx.Node, params: int, batch: int) -> LayerRow:
    shape, result = _shape(weight), _shape(node)
    source = node.args[1] if str(node.target).startswith("aten.addmm") else node.args[0]
    assert isinstance(source, fx.Node)
    given = _shape(source)
    if kind == "Linear":
        inputs, outputs = given[-1], result[-1]
        return LayerRow(name, kind, inputs, outputs, _per_sample(given[:-1], batch) * math.prod(shape), params)
    transposed = "transpose" in str(node.target) or (kind == "Conv" and bool(node.args[6]))
    channel = len(given) - (len(shape) - 1)
    if kind == "Conv":
        kind = f"Conv{'Transpose' if transposed else ''}{len(shape) - 2}d"
    space = (given if transposed else result)[channel + 1 :]
    lead = _per_sample(given[:channel], batch)
    return LayerRow(name, kind, given[channel], result[channel], lead * math.prod(space) * math.prod(shape), params)


def _per_sample(shape: tuple[int, ...], batch: int) -> int:
    return max(1, math.prod(shape) // batch)


def _batch(program: ExportedProgram) -> int:
    """The batch size of the example that the program was exported with: dim 0 of its first tensor input."""
    user = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in user and len(_shape(node)) > 0:
            return _shape(node)[0]
    return 1


def _tensor_names(program: ExportedProgram) -> Mapping[str, str]:
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def _source(value: Any) -> fx.Node | None:
    """The node that a weight comes from, transpositions and casts (as in `x @ w.t()`) skipped."""
    while isinstance(value, fx.Node) and value.op == "call_function" and _is_view(value):
        value = value.args[0]
    return value if isinstance(value, fx.Node) else None


def _is_view(node: fx.Node) -> bool:
    return str(node.target).startswith(("aten.t.", "aten.permute.", "aten.transpose.", "aten.detach."))


def _shape(node: fx.Node) -> tuple[int, ...]:
    """The node's shape, a free size (batch, image) at the value that it had when the program was exported."""
    value = node.meta.get("val")
    return tuple(_size(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else 1
