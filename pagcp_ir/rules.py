"""THE op table: one entry per op: how labels pass it, and how its size literals follow a cut.

Modules are looked up by their exact type (a parametrised convolution passes `isinstance` and would be cut wrongly),
functions by identity, methods by name. What is not here is opaque: it pins the channels it touches.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pagcp_ir import literals as lit
from pagcp_ir import movers as mv
from pagcp_ir import pointwise as pw
from pagcp_ir import producers as pr
from pagcp_ir.effects import writes_in_place
from pagcp_ir.literals import Resize
from pagcp_ir.site import Rule, opaque

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "Op", "op_of"]


@dataclass(frozen=True)
class Op:
    """`labels`: the label rule. `sizes`: rewrites the literals of a node of the cut graph, None where it has none.
    `is_value`: a number among the arguments is a value of the computation, not a size."""

    labels: Rule
    sizes: Resize | None = None
    is_value: bool = False


OPAQUE = Op(opaque)
WRITES_THROUGH = Op(mv.writes_through_a_view)


def _ops(op: Op, *keys: Any) -> dict[Any, Op]:
    return dict.fromkeys(keys, op)


UNARY, POINTWISE = Op(pw.unary, is_value=True), Op(pw.elementwise, is_value=True)
RESIZED = Op(pw.resized)
MOVER, SIZED = Op(mv.mover), Op(mv.mover, lit.output_sizes)
REDUCE = Op(pw.reduced_along)
SPLIT = Op(mv.mover, lit.split_sizes)

MODULES: Mapping[type[nn.Module], Op] = {
    **_ops(Op(pr.conv), *pr.CONVS),
    nn.Linear: Op(pr.linear),
    **_ops(Op(pr.batch_norm), nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    **_ops(Op(pr.batch_norm), nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    nn.PReLU: Op(pr.prelu),
    **_ops(
        UNARY,
        *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Tanhshrink, nn.Hardswish),
        *(nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Threshold),
    ),
    **_ops(
        RESIZED,
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.LPPool1d, nn.LPPool2d),
        *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
        *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
        *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    ),
    nn.Flatten: MOVER,
    nn.Unflatten: Op(mv.mover, lit.unflatten_module),
    nn.PixelShuffle: MOVER,
    nn.PixelUnshuffle: MOVER,
    nn.ChannelShuffle: Op(mv.channel_shuffle),
    nn.GLU: Op(pw.glu),
    **_ops(Op(pw.module_normalised_along(-1)), nn.Softmax, nn.LogSoftmax, nn.Softmin),
    nn.Softmax2d: Op(pw.statistics_over_channels),
    **_ops(Op(pw.statistics_over_channels), nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
}

_UNARY_NAMES = [
    "abs",
    "absolute",
    "neg",
    "negative",
    "relu",
    "relu_",
    "sigmoid",
    "sigmoid_",
    "tanh",
    "tanh_",
    "exp",
    "log",
    "log2",
    "log10",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "sign",
    "sin",
    "cos",
    "tan",
    "erf",
    "clamp",
    "clamp_",
    "clamp_min",
    "clamp_max",
    "clip",
    "contiguous",
    "clone",
    "detach",
    "to",
    "float",
    "double",
    "half",
    "bfloat16",
    "type",
    "type_as",
    "cpu",
    "requires_grad_",
    "nan_to_num",
    "hardtanh",
    "leaky_relu",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
]
_POINTWISE_NAMES = [
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
    "true_divide",
    "multiply",
    "subtract",
    "divide",
    "pow",
    "remainder",
    "fmod",
    "maximum",
    "minimum",
    "where",
    "lerp",
    "addcmul",
    "addcdiv",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "atan2",
    "masked_fill",
]
_REDUCE_NAMES = [
    "mean",
    "sum",
    "amax",
    "amin",
    "prod",
    "std",
    "var",
    "norm",
    "logsumexp",
    "max",
    "min",
    "argmax",
    "argmin",
    "all",
    "any",
    "median",
]
_SIZED_NAMES = ["view", "reshape", "expand", "unflatten"]
_MOVER_NAMES = [
    "flatten",
    "permute",
    "transpose",
    "t",
    "swapaxes",
    "swapdims",
    "movedim",
    "moveaxis",
    "squeeze",
    "unsqueeze",
    "flip",
    "repeat",
    "tile",
    "repeat_interleave",
    "expand_as",
    "view_as",
    "reshape_as",
    "ravel",
]


def _named(names: Iterable[str], op: Op) -> dict[Any, Op]:
    """The op under its method name and as a function of torch, where it exists."""
    found: dict[Any, Op] = {}
    for name in names:
        found[name] = op
        function = getattr(torch, name, None)
        if callable(function) and not isinstance(function, type):
            found[function] = op
    return found


_BOTH: dict[Any, Op] = {
    **_named(_UNARY_NAMES, UNARY),
    **_named(_POINTWISE_NAMES, POINTWISE),
    **_named(_REDUCE_NAMES, REDUCE),
    **_named(_SIZED_NAMES, SIZED),
    **_named(_MOVER_NAMES, MOVER),
    **_named(["chunk", "split", "split_with_sizes", "tensor_split"], SPLIT),
    **_named(["narrow"], Op(mv.mover, lit.narrow)),
    **_named(["select"], Op(mv.select, lit.select)),
    **_named(["unbind"], Op(mv.unbind)),
    **_named(["roll"], Op(mv.rolled)),
    **_named(["softmax", "log_softmax", "cumsum", "cumprod"], Op(pw.normalised_along(1))),
}

METHODS: Mapping[str, Op] = {key: op for key, op in _BOTH.items() if isinstance(key, str)}
FUNCTIONS: Mapping[Any, Op] = {
    **{key: op for key, op in _BOTH.items() if not isinstance(key, str)},
    **{function: Op(rule, lit.conv_groups) for function, rule in pr.FUNCTIONAL_CONVS.items()},
    F.linear: Op(pr.functional_linear),
    **_ops(
        UNARY,
        *(
            F.relu,
            F.relu_,
            F.relu6,
            F.leaky_relu,
            F.leaky_relu_,
            F.elu,
            F.celu,
            F.selu,
            F.gelu,
            F.silu,
            F.mish,
        ),
        *(F.sigmoid, F.tanh, F.hardsigmoid, F.hardswish, F.hardtanh, F.softplus, F.softsign, F.logsigmoid),
        *(F.dropout, F.dropout2d, F.threshold, F.tanhshrink, F.softshrink, F.hardshrink, torch.relu_),
        *(operator.neg, operator.pos, operator.abs),
    ),
    **_ops(
        POINTWISE,
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.pow),
        *(
            operator.iadd,
            operator.isub,
            operator.imul,
            operator.itruediv,
            operator.mod,
            operator.ifloordiv,
            operator.ipow,
            operator.imod,
        ),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
        *(operator.and_, operator.or_, operator.xor, operator.invert),
    ),
    **_ops(
        RESIZED,
        *(F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
        *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.lp_pool2d),
        *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.interpolate, F.upsample),
    ),
    **_ops(Op(mv.mover), torch.cat, torch.concat, torch.concatenate, torch.stack),
    **_ops(Op(mv.mover), torch.pixel_shuffle, torch.pixel_unshuffle, F.pixel_shuffle, F.pixel_unshuffle),
    **_ops(Op(mv.channel_shuffle), torch.channel_shuffle),
    **_ops(Op(mv.pad, lit.pad_amounts), F.pad, torch._C._nn.pad),
    **_ops(Op(pw.normalised_along(1)), F.softmax, F.log_softmax, F.softmin),
    F.normalize: Op(pw.normalised_along(2, default=1)),
    F.glu: Op(pw.glu),
    operator.getitem: Op(mv.getitem, lit.getitem),
    **_ops(Op(pw.statistics_over_channels), F.layer_norm, F.group_norm, F.local_response_norm),
}

PURE_SIZES = frozenset({getattr, math.sqrt, math.floor, math.ceil, len, int, float})
"""Functions that turn sizes into numbers and never see data."""


def _writes_through_a_view(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """An in-place op on what a mover returned may change the tensor that was moved as well."""
    target = node.args[0] if node.args else None
    if not isinstance(target, fx.Node) or not target.op.startswith("call_"):
        return False
    if not writes_in_place(node, modules.get(str(node.target))):
        return False
    entry = op_of(target, modules)
    return entry.labels in _VIEWS and any(len(n.users) > 1 for n in _chain(target, modules))


def _chain(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterable[fx.Node]:
    """The values that a view may share memory with: what it was made of, step by step."""
    while node.op.startswith("call_") and op_of(node, modules).labels in _VIEWS:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return
        yield source
        node = source


_VIEWS = frozenset({mv.mover, mv.getitem, mv.select, mv.unbind})


def op_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Op:
    """The entry of the table for this call, or the opaque default."""
    if "opaque" in node.meta:
        return OPAQUE
    if _writes_through_a_view(node, modules):
        return WRITES_THROUGH
    if node.op == "call_module":
        return MODULES.get(type(modules[str(node.target)]), OPAQUE)
    if node.op == "call_method":
        return METHODS.get(str(node.target), OPAQUE)
    return FUNCTIONS.get(node.target, OPAQUE)
