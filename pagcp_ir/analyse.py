"""Run a program on labels and read off its channel graph: units, groups, bindings, pins (DESIGN section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pagcp_ir.channels import Binding, ChannelGraph, Group, Keep, Layer, Pin, TensorInfo, Units, ValueAxis, layer_of
from pagcp_ir.effects import writes_in_place
from pagcp_ir.labels import Labels, RawLayer, RawPin, Ref, compact, spread, through, varying
from pagcp_ir.program import Program
from pagcp_ir.protect import pin_protected
from pagcp_ir.rules import ADDS, DIVIDES, KEPT_WHOLE, MADE, OPAQUE, WRITES_THROUGH, Op, op_of, shared_memory
from pagcp_ir.site import Site
from pagcp_ir.sizes import is_plain, sizes_read
from pagcp_ir.text import op_name
from pagcp_ir.values import fixed_macs

__all__ = ["analyse"]


def analyse(program: Program, protect: Sequence[str] = ()) -> ChannelGraph:
    """The channel graph of a program; `protect`: globs of layers whose outputs (`:in`: inputs) stay whole.

    Raises GraphError when a glob matches no layer.
    """
    labels, values = _run(program)
    pin_protected(labels, protect)
    roots = labels.settle(values)
    _pin_divisors(labels, roots)
    _pin_lone(program, labels, values, roots)
    return _graph(program, labels, values, roots)


def _run(program: Program) -> tuple[Labels, dict[str, Tensor]]:
    """Interpret the graph on labels. Returns the labels and every tensor value by node name."""
    labels = Labels()
    env: dict[fx.Node, Any] = {}
    values: dict[str, Tensor] = {}
    modules = dict(program.module.named_modules(remove_duplicate=False))
    names = {id(t): name for name, t in reversed(list(program.tensors().items()))}
    for node in program.module.graph.nodes:
        labels.where, labels.op = node.meta.get("where", ""), _title(node, modules)
        labels.calls[node.name] = (labels.op, labels.where)
        if node.op != "placeholder" and all(n.name in labels.constant for n in node.all_input_nodes):
            labels.constant.add(node.name)
        env[node] = _node(program, node, labels, env, modules, names)
        if isinstance(env[node], Tensor):
            values[node.name] = env[node]
    for node, value in env.items():
        if isinstance(value, Ref) and (held := _labels_of(value, labels)) is not None:
            values[node.name] = held
    return labels, values


def _labels_of(ref: Ref, labels: Labels) -> Tensor | None:
    """The labels of a parameter that is read as a value, once it is known to what it is bound."""
    if ref.name in labels.whole:
        return labels.whole[ref.name]
    bound = [dim for name, dim in labels.axes if name == ref.name]
    return spread(labels.axes[ref.name, bound[0]], bound[0], tuple(ref.shape)) if len(bound) == 1 else None


def _node(
    program: Program,
    node: fx.Node,
    labels: Labels,
    env: Mapping[fx.Node, Any],
    modules: Mapping[str, nn.Module],
    names: Mapping[int, str],
) -> Any:
    if node.op == "placeholder":
        return labels.fixed(tuple(node.meta["value"].shape), f"the graph input `{node.name}`")
    if node.op == "get_attr":
        return _reference(program, node, labels, names)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
    if node.op == "output":
        _pin_outputs(labels, node.args[0], args[0])
        return None
    if not any(isinstance(v, Tensor) for v in pytree.tree_leaves(node.meta["value"])):
        if writes_in_place(node):
            _pin_written(labels, node, args, env, modules)
        elif not is_plain(node.meta["value"]):  # an object of the user's: whatever it holds is out of sight
            _pin_all(labels, (args, kwargs), f"is kept in `{labels.op}`, an object that is not a container")
        return node.meta["value"]  # sizes: nothing of them is a channel
    module = modules[str(node.target)] if node.op == "call_module" else None
    op, counted = op_of(node, modules), len(labels.layers)
    site = Site(labels, node, args, kwargs, module, names)
    result = op.labels(site)
    if op is WRITES_THROUGH:
        _pin_written(labels, node, args, env, modules)
    if op in (OPAQUE, MADE):
        _pin_widths_read(labels, node, env)
    if node.target in DIVIDES and len(args) > 1 and isinstance(args[1], Tensor):
        labels.divisors.append(args[1])
    if _is_clean(op, node, labels, env):
        labels.clean.add(node.name)
    if len(labels.layers) == counted and (op.labels in KEPT_WHOLE or op.zero == "always"):
        _add_fixed_cost(site)
    return result


def _pin_written(
    labels: Labels, node: fx.Node, args: Any, env: Mapping[fx.Node, Any], modules: Mapping[str, nn.Module]
) -> None:
    """What is written into, what it is a view of, and what is written: cutting could turn the view into a copy."""
    reason = f"`{labels.op}` writes through a view"
    if isinstance(node.args[0], fx.Node):
        _pin_all(labels, [env.get(n) for n in shared_memory(node.args[0], modules)], reason)
    _pin_all(labels, args, reason)


def _pin_all(labels: Labels, values: Any, reason: str) -> None:
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, Ref):
            labels.freeze(leaf, reason)
        elif isinstance(leaf, Tensor):
            labels.pin(leaf, reason)


def _pin_widths_read(labels: Labels, node: fx.Node, env: Mapping[fx.Node, Any]) -> None:
    """An op that is kept whole may do anything with a channel count that it is given: the count must not change."""
    pending, seen = list(node.all_input_nodes), set[fx.Node]()
    while pending:
        source = pending.pop()
        if source in seen or _holds_tensor(source):
            continue
        seen.add(source)
        for tensor, dim in sizes_read(source):
            value = env.get(tensor)
            if isinstance(value, Tensor) and (dim is None or dim % value.ndim in varying(value)):
                labels.pin(value, f"its size is read by `{labels.op}`")
        pending.extend(source.all_input_nodes)


def _is_clean(op: Op, node: fx.Node, labels: Labels, env: Mapping[fx.Node, Any]) -> bool:
    """Whether the value is 0 wherever the tensors of its producers are zeroed."""
    if op.zero in ("never", "always"):
        return op.zero == "always"
    tensors = [n for n in node.all_input_nodes if _holds_tensor(n)]
    clean = [n.name in labels.clean or _is_bound(env.get(n), labels) for n in tensors]
    if op.zero == "any":
        return any(clean)
    if node.target in DIVIDES:
        return all(clean) and len(tensors) == 1 and node.args[:1] == (tensors[0],)
    return all(clean) and not (node.target in ADDS and len(tensors) < 2)


def _is_bound(value: Any, labels: Labels) -> bool:
    """A parameter that is zeroed with the channels: one that is bound to them."""
    return isinstance(value, Ref) and any(name == value.name for name, _ in labels.axes)


def _holds_tensor(node: fx.Node) -> bool:
    return any(isinstance(v, Tensor) for v in pytree.tree_leaves(node.meta["value"]))


def _add_fixed_cost(site: Site) -> None:
    """MACs of a call that is kept whole, as torch's flop counter has them."""
    labels, node = site.labels, site.node
    macs = site.per_sample(fixed_macs(node, site.module))
    if macs:
        one = labels.fixed((1,), "one")
        name = str(node.target) if node.op == "call_module" else node.name
        labels.layers.append(RawLayer(name, labels.op.split(": ")[-1], node.name, macs, one, one, False, 1, ()))


def _reference(program: Program, node: fx.Node, labels: Labels, names: Mapping[int, str]) -> Any:
    path, _, name = str(node.target).rpartition(".")
    tensor = getattr(program.module.get_submodule(path), name)
    if id(tensor) in names:
        return Ref(names[id(tensor)], tensor)
    return labels.fixed(tuple(tensor.shape), f"the constant `{node.target}`")


def _pin_outputs(labels: Labels, nodes: Any, outputs: Any) -> None:
    sources = pytree.tree_leaves(nodes)
    for source, (path, leaf) in zip(sources, pytree.tree_flatten_with_path(outputs)[0], strict=False):
        if isinstance(leaf, Tensor):
            labels.where = source.meta.get("where", "") if isinstance(source, fx.Node) else ""
            name = pytree.keystr(path).replace("['", "").replace("']", "")
            labels.pin(leaf, f"graph output `{name}`" if name else "graph output")


def _pin_divisors(labels: Labels, roots: NDArray[np.int64]) -> None:
    """Zeroing the producer of a unit proves nothing where something is divided by that unit."""
    divided = {int(c) for v in labels.divisors for c in np.unique(through(v, roots).numpy())}
    for vector in labels.contracted:
        hit = torch.from_numpy(np.isin(through(vector, roots).numpy(), list(divided)))
        if bool(hit.any()):
            labels.where = ""
            labels.pin(vector[hit], "is summed in products and divided by")


def _pin_lone(program: Program, labels: Labels, values: Mapping[str, Tensor], roots: NDArray[np.int64]) -> None:
    """A unit that the whole width of a value cannot go: nothing would be left of the value."""
    for node in program.module.graph.nodes:
        value = values.get(node.name) if node.op != "get_attr" else None
        if value is not None and not varying(through(value, roots)):
            labels.where = node.meta.get("where", "")
            labels.pin(value, f"the whole width of `{node.name}`")


def _title(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        return f"{node.target}: {type(modules[str(node.target)]).__name__}"
    return op_name(node, modules).lstrip(".")


def _graph(program: Program, labels: Labels, values: Mapping[str, Tensor], roots: NDArray[np.int64]) -> ChannelGraph:
    """Number the classes, with one more unit for all positions that are always there."""
    always = int(roots.max()) + 1 if roots.size else 0

    def units(vector: Tensor) -> Units:
        raw = vector.numpy().astype(np.int64)
        return np.where(raw >= 0, roots[np.maximum(raw, 0)] if roots.size else raw, always)

    pinned = torch.from_numpy(_flags(always + 1, [roots[pin.labels] for pin in labels.pins]))
    axes = {n: found for n, v in values.items() if (found := _value_axis(v, roots, always, pinned)) is not None}
    bindings = [
        Binding(*key, units(vector), labels.roles[key], key in labels.read) for key, vector in labels.axes.items()
    ]
    bindings += _whole_bindings(labels, roots, always, pinned, {(b.tensor, b.dim) for b in bindings})
    layers = tuple(
        Layer(
            r.name,
            r.kind,
            r.node,
            r.factor,
            units(r.inputs),
            units(r.outputs),
            r.per_channel,
            r.parts,
            r.tensors,
        )
        for r in labels.layers
    )
    groups = _groups(bindings, labels, always + 1)
    return ChannelGraph(
        n_units=always + 1,
        groups=groups,
        bindings=tuple(bindings),
        pins=_pins(labels.pins, roots, groups, always + 1),
        values=axes,
        layers=layers,
        tensors=_tensors(program),
        contracted=_flags(always + 1, [units(v) for v in labels.contracted]),
        normalised=tuple(units(v) for v in labels.normalised),
        ties=tuple(labels.ties),
        labels={key: vector.numpy() for key, vector in labels.axes.items()},
    )


def _flags(count: int, found: Sequence[Units]) -> Keep:
    flags = np.zeros(count, dtype=np.bool_)
    for units in found:
        flags[units] = True
    flags[count - 1] = False
    return flags


def _value_axis(value: Tensor, roots: NDArray[np.int64], always: int, pinned: Tensor) -> ValueAxis | None:
    classes = through(value, roots)
    axes = varying(classes) or varying(value)  # one unit may hold a whole axis
    if not axes:
        return None
    axis = axes[0] if len(axes) == 1 else _free_axis(classes, axes, pinned)
    vector = classes[tuple(slice(None) if d == axis else 0 for d in range(value.ndim))]
    raw = vector.numpy().astype(np.int64)
    return ValueAxis(axis, np.where(raw >= 0, raw, always))


def _free_axis(classes: Tensor, axes: Sequence[int], pinned: Tensor) -> int:
    """What was pinned because it met what is fixed still differs from it, on any axis: free channels vary on one."""
    free = (classes >= 0) & ~pinned[classes.clamp(min=0)]
    return (varying(compact(torch.where(free, classes, -1))) or axes)[0]


def _whole_bindings(
    labels: Labels, roots: NDArray[np.int64], always: int, pinned: Tensor, known: set[tuple[str, int]]
) -> list[Binding]:
    """Tensors that were moved about before use: after settling they vary along one axis at most."""
    found = []
    for name, value in labels.whole.items():
        axis = _value_axis(value, roots, always, pinned)
        if axis is not None and (name, axis.axis) not in known:
            found.append(Binding(name, axis.axis, axis.units, "along"))
    return found


def _groups(bindings: Iterable[Binding], labels: Labels, n_units: int) -> tuple[Group, ...]:
    """Join the units that occur on one producer's output axis; a group is named after its first producer."""
    made = [b for b in bindings if b.role == "out"]
    if not made:
        return ()
    left = np.concatenate([np.full(b.units.shape, b.units[0]) for b in made])
    right = np.concatenate([b.units for b in made])
    graph = coo_matrix((np.ones(left.size, dtype=np.int8), (left, right)), shape=(n_units, n_units))
    component = connected_components(graph, directed=False)[1]
    members: dict[int, list[Binding]] = {}
    for binding in made:
        members.setdefault(int(component[binding.units[0]]), []).append(binding)
    readers = [b for b in bindings if b.role == "in"]
    groups = []
    for number, producers in members.items():
        order = np.concatenate([b.units for b in producers])
        _, first = np.unique(order, return_index=True)
        units = order[np.sort(first)]
        groups.append(
            Group(
                name=layer_of(producers[0].tensor),
                units=units,
                producers=tuple(dict.fromkeys(layer_of(b.tensor) for b in producers)),
                readers=tuple(
                    dict.fromkeys(layer_of(b.tensor) for b in readers if (component[b.units] == number).any())
                ),
                where=labels.places[producers[0].tensor, producers[0].dim],
            )
        )
    return tuple(groups)


def _pins(raw: Iterable[RawPin], roots: NDArray[np.int64], groups: Sequence[Group], n_units: int) -> tuple[Pin, ...]:
    """Pins that concern a group, one per unit: the first reason found names it."""
    grouped = np.zeros(n_units, dtype=np.bool_)
    for group in groups:
        grouped[group.units] = True
    found: list[Pin] = []
    for pin in raw:
        units = np.unique(roots[pin.labels])
        units = units[grouped[units]]
        if units.size:
            found.append(Pin(units, pin.reason, pin.where))
            grouped[units] = False
    return tuple(found)


def _tensors(program: Program) -> dict[str, TensorInfo]:
    parameters = {id(p) for p in program.module.parameters()}
    return {
        name: TensorInfo(tuple(t.shape), t.element_size(), id(t) in parameters) for name, t in program.tensors().items()
    }
