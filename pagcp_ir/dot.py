"""The channel graph in Graphviz's language: layers coloured by the group that they make, edges with their widths.

Drawn are inputs, outputs, layers, ops that the rules keep whole, and where several values meet; what lies between
two of them (norms, activations, pools) is part of the edge.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pagcp_ir.channels import ChannelGraph, Layer, Units
from pagcp_ir.program import Program
from pagcp_ir.rules import KEPT_WHOLE, op_of
from pagcp_ir.text import op_name

__all__ = ["channel_dot"]

_GOLDEN = 0.618034
"""Steps of this size around the colour circle keep neighbouring groups apart."""
_PINS_SHOWN = 2


def channel_dot(program: Program, channels: ChannelGraph) -> str:
    """A digraph, top down; layers with pinned outputs have a red, dashed frame and the reason in their label."""
    return "\n".join(_Drawing(program, channels).lines()) + "\n"


class _Drawing:
    def __init__(self, program: Program, channels: ChannelGraph) -> None:
        self.program, self.channels = program, channels
        self.layers = {layer.node: layer for layer in channels.layers if layer.tensors}
        self.modules = dict(program.module.named_modules(remove_duplicate=False))
        self.owner = np.full(channels.n_units, -1)
        for number, group in enumerate(channels.groups):
            self.owner[group.units] = number

    def lines(self) -> Sequence[str]:
        nodes, edges = [], []
        sources: dict[fx.Node, tuple[str, ...]] = {}
        for node in self.program.module.graph.nodes:
            inputs = [n for n in node.all_input_nodes if n in sources]
            above = tuple(dict.fromkeys(s for n in inputs for s in sources[n]))
            if not _holds_tensor(node) or node.op == "get_attr":
                continue
            if not self._is_drawn(node, above):
                sources[node] = above
                continue
            sources[node] = (node.name,)
            nodes.append(f"  {_quoted(node.name)} [{self._attributes(node)}];")
            edges += [f"  {_quoted(s)} -> {_quoted(node.name)}{self._width(n)};" for n in inputs for s in sources[n]]
        title = str(self.program.module.meta.get("name", "")) or "network"
        head = [
            f"digraph {_quoted(title)} {{",
            '  node [shape=box, style="rounded,filled", fillcolor=white, fontname="Helvetica", fontsize=10];',
            '  edge [fontname="Helvetica", fontsize=9];',
        ]
        return [*head, *nodes, *dict.fromkeys(edges), "}"]

    def _is_drawn(self, node: fx.Node, above: Sequence[str]) -> bool:
        ends = node.op in ("placeholder", "output") or node.name in self.layers
        return ends or len(above) > 1 or op_of(node, self.modules).labels in KEPT_WHOLE

    def _attributes(self, node: fx.Node) -> str:
        layer = self.layers.get(node.name)
        if layer is not None:
            return self._layer(layer)
        if node.op in ("placeholder", "output"):
            return f"label={_quoted('output' if node.op == 'output' else f'input {node.name}')}, shape=plaintext"
        whole = op_of(node, self.modules).labels in KEPT_WHOLE
        title = f"{node.target}: {type(self.modules[str(node.target)]).__name__}" if node.op == "call_module" else ""
        text = _broken(title or op_name(node, self.modules), str(node.meta.get("where", "")))
        shape = "shape=octagon, color=red" if whole else 'shape=ellipse, style=""'
        return f"label={_quoted(text)}, {shape}"

    def _layer(self, layer: Layer) -> str:
        kind = "depthwise " * layer.per_channel + layer.kind + f", {layer.parts} parts" * (layer.parts > 1)
        pins = [
            f"pinned {count} of {layer.outputs.size}: {pin.reason}" + (f" ({pin.where})" if pin.where else "")
            for pin in self.channels.pins
            if (count := int(np.isin(layer.outputs, pin.units).sum()))
        ]
        more = [f"and {len(pins) - _PINS_SHOWN} more"] if len(pins) > _PINS_SHOWN else []
        text = _broken(layer.name, f"{kind} {layer.inputs.size} -> {layer.outputs.size}", *pins[:_PINS_SHOWN], *more)
        frame = ', style="rounded,filled,dashed", color=red' if pins else ""
        return f"label={_quoted(text)}, fillcolor={_quoted(self._colour(layer.outputs))}{frame}"

    def _colour(self, units: Units) -> str:
        """Hue, saturation and value by the first group among the units."""
        number = int(self.owner[units].max())
        return f"{number * _GOLDEN % 1:.3f} 0.250 1.000" if number >= 0 else "0.000 0.000 0.900"

    def _width(self, node: fx.Node) -> str:
        value = self.channels.values.get(node.name)
        return f' [label="{value.units.size}"]' if value is not None else ""


def _holds_tensor(node: fx.Node) -> bool:
    return node.op == "output" or any(isinstance(v, Tensor) for v in pytree.tree_leaves(node.meta["value"]))


def _broken(*lines: str) -> str:
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 48, break_on_hyphens=False))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
