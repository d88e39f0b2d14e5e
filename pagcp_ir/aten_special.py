"""ATen calls that a row of names cannot say: indexing as `x[...]`, decomposed convolutions and linear layers, copies.

Each function takes a node and rewrites it in place, or leaves it as it is.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverload

__all__ = ["special_to_torch"]

_CONVS = {1: (F.conv1d, F.conv_transpose1d), 2: (F.conv2d, F.conv_transpose2d), 3: (F.conv3d, F.conv_transpose3d)}
_DROPOUTS = {3: F.dropout1d, 4: F.dropout2d, 5: F.dropout3d}


def special_to_torch(graph: fx.Graph) -> None:
    """Rewrite what is not in the rows; checks of sizes and types, decided when the graph was made, go."""
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.target, OpOverload) and node.target.namespace == "aten":
            rewrite = _SPECIAL.get(node.target._schema.name.removeprefix("aten::"))
            if rewrite is not None:
                rewrite(node, _arguments(node, node.target))


Given = Mapping[str, Any]


def _arguments(node: fx.Node, target: OpOverload) -> Given:
    declared = target._schema.arguments
    defaults = {a.name: a.default_value for a in declared}
    return {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}


def _set(node: fx.Node, target: Any, *args: Any) -> None:
    node.op, node.target, node.args, node.kwargs = "call_function", target, args, {}


def _gone(node: fx.Node, value: Any = None) -> None:
    """Take the node away; `value` stands for it."""
    if isinstance(value, fx.Node):
        node.replace_all_uses_with(value)
    if not node.users:
        node.graph.erase_node(node)


def _slice(node: fx.Node, given: Given) -> None:
    """`x[:, start:end:step]`; a slice of everything is the tensor itself."""
    start = None if given["start"] in (0, None) else given["start"]
    end = None if given["end"] in (sys.maxsize, None) else given["end"]
    step = None if given["step"] == 1 else given["step"]
    if start is end is step is None:
        _gone(node, given["self"])
    else:
        _set(node, operator.getitem, given["self"], _at(given["dim"], slice(start, end, step)))


def _select(node: fx.Node, given: Given) -> None:
    """`x[:, index]`."""
    _set(node, operator.getitem, given["self"], _at(given["dim"], given["index"]))


def _at(dim: int, item: Any) -> Any:
    if dim < 0:
        return (Ellipsis, item, *[slice(None)] * (-dim - 1))
    return (*[slice(None)] * dim, item) if dim else item


def _index(node: fx.Node, given: Given) -> None:
    """`x[:, index]` with tensors as indices."""
    items = tuple(slice(None) if i is None else i for i in given["indices"])
    _set(node, operator.getitem, given["self"], items if len(items) > 1 else items[0])


def _convolution(node: fx.Node, given: Given) -> None:
    space = len(given["stride"])
    plain, transposed = _CONVS[space]
    head = (given["input"], given["weight"], given["bias"], given["stride"], given["padding"])
    if given["transposed"]:
        _set(node, transposed, *head, given["output_padding"], given["groups"], given["dilation"])
    else:
        _set(node, plain, *head, given["dilation"], given["groups"])


def _addmm(node: fx.Node, given: Given) -> None:
    """`bias + x @ weight.t()`."""
    weight = _transposed(given["mat2"])
    if weight is not None and given["beta"] == given["alpha"] == 1 and _is_tensor_of_model(given["self"]):
        _set(node, F.linear, given["mat1"], weight, given["self"])


def _mm(node: fx.Node, given: Given) -> None:
    """`x @ weight.t()`."""
    weight = _transposed(given["mat2"])
    if weight is not None:
        _set(node, F.linear, given["self"], weight)


def _transposed(value: Any) -> fx.Node | None:
    """The parameter that this is the transposition of."""
    if not isinstance(value, fx.Node) or not str(value.target).startswith(
        ("aten.t.", "aten.permute.", "aten.transpose.")
    ):
        return None
    source = value.args[0]
    swaps = value.args[1:] in ((), ([1, 0],), (0, 1), (1, 0))
    return source if swaps and isinstance(source, fx.Node) and _is_tensor_of_model(source) else None


def _is_tensor_of_model(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _copied(node: fx.Node, given: Given) -> None:
    """A constant is copied so that writes into it are not seen: the copy goes where nothing is written."""
    if not any(_writes(user) for user in node.users):
        _gone(node, given["self"])


def _detached(node: fx.Node, given: Given) -> None:
    _gone(node, given["self"])


def _writes(node: fx.Node) -> bool:
    name = node.target._schema.name if isinstance(node.target, OpOverload) else str(node.target)
    return name.endswith("_") and name != "aten::detach_"


def _channel_dropout(node: fx.Node, given: Given) -> None:
    value = node.meta.get("val")
    kind: Callable[..., Any] | None = _DROPOUTS.get(getattr(value, "ndim", 0))
    if kind is not None:
        _set(node, kind, given["input"], given["p"], given["train"])


def _written_back(node: fx.Node, given: Given) -> None:
    """`y[:, :2] += 1` writes in place and then copies what was written onto itself."""
    source = given["src"]
    if isinstance(source, fx.Node) and source.args and _writes(source) and _same(source.args[0], given["self"]):
        _gone(node, given["self"])


def _same(a: Any, b: Any) -> bool:
    """Whether two nodes stand for the same part of the same memory."""
    if a is b or not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return a is b
    views = a.target is b.target is operator.getitem and a.args[1] == b.args[1]
    return views and _same(a.args[0], b.args[0])


def _checked(node: fx.Node, given: Given) -> None:
    _gone(node)


_SPECIAL: Mapping[str, Callable[[fx.Node, Given], None]] = {
    "slice": _slice,
    "select": _select,
    "index": _index,
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "lift_fresh_copy": _copied,
    "detach_": _detached,
    "feature_dropout": _channel_dropout,
    "copy_": _written_back,
    "_assert_tensor_metadata": _checked,
    "_assert_scalar": _checked,
    "sym_constrain_range_for_size": _checked,
    "sym_constrain_range": _checked,
}
