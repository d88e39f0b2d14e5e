"""THE op table: one entry per op: how labels pass it, and how its size literals follow a cut.

Modules are looked up by their exact type (a parametrised convolution passes `isinstance` and would be cut wrongly),
functions by identity, methods by name. What is not here is opaque: it pins the channels it touches.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from pagcp_ir import contraction as ct
from pagcp_ir import literals as lit
from pagcp_ir import movers as mv
from pagcp_ir import normalisations as nm
from pagcp_ir import pointwise as pw
from pagcp_ir import producers as pr
from pagcp_ir.effects import writes_in_place
from pagcp_ir.literals import Resize
from pagcp_ir.site import Rule, opaque

__all__ = [
    "ADDS",
    "DIVIDES",
    "FUNCTIONS",
    "KEPT_WHOLE",
    "MADE",
    "METHODS",
    "MODULES",
    "OPAQUE",
    "WRITES_THROUGH",
    "Op",
    "op_of",
    "shared_memory",
]

Zero = Literal["never", "any", "all", "always"]


@dataclass(frozen=True)
class Op:
    """`labels`: the label rule. `sizes`: rewrites the literals of a node of the cut graph, None where it has none.

    `is_value`: a number among the arguments is a value of the computation, not a size.
    `zero`: when the result is 0 where the producers' tensors are zeroed: if any or all operands are, always, never.
    `statistics`: what stays depends on which channels are there at all.
    """

    labels: Rule
    sizes: Resize | None = None
    is_value: bool = False
    zero: Zero = "never"
    statistics: bool = False


OPAQUE = Op(opaque)
MADE = Op(mv.made)
WRITES_THROUGH = Op(mv.writes_through_a_view)
HOOKED = Op(mv.hooked)
Table = dict[str, Op]

# Names are those of torch.nn for modules. Elsewhere a bare name is a method and the function torch.<name>, where there
# is one; F. is torch.nn.functional.
_MODULES: Table = {
    "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d": Op(pr.conv, zero="always"),
    "Linear": Op(pr.linear, zero="always"),
    "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm": Op(pr.batch_norm, zero="all"),
    "InstanceNorm1d InstanceNorm2d InstanceNorm3d": Op(pr.batch_norm, zero="all"),
    "LayerNorm": Op(nm.layer_norm, lit.layer_norm_module, zero="all", statistics=True),
    "GroupNorm": Op(nm.group_norm, lit.group_norm_module, zero="all", statistics=True),
    "LocalResponseNorm": Op(nm.local_response_norm),
    "Embedding": Op(pr.embedding, zero="always"),
    "PReLU": Op(pr.prelu, zero="all"),
    "Identity Dropout Dropout1d Dropout2d Dropout3d ReLU ReLU6 LeakyReLU RReLU ELU CELU SELU GELU SiLU Mish Tanh "
    "Tanhshrink Hardswish Softsign Softshrink Hardshrink": Op(pw.unary, zero="all"),
    "AlphaDropout Sigmoid Hardsigmoid LogSigmoid Hardtanh Softplus Threshold": Op(pw.unary),
    "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d AdaptiveAvgPool1d "
    "AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d Upsample "
    "UpsamplingNearest2d UpsamplingBilinear2d ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d "
    "ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d "
    "CircularPad3d": Op(pw.resized, zero="all"),
    "ConstantPad1d ConstantPad2d ConstantPad3d": Op(pw.resized),
    "Flatten PixelUnshuffle": Op(mv.mover, zero="all"),
    "PixelShuffle": Op(mv.pixel_shuffle, zero="all"),
    "Unflatten": Op(mv.mover, lit.unflatten_module, zero="all"),
    "ChannelShuffle": Op(mv.channel_shuffle, zero="all"),
    "GLU": Op(pw.glu, zero="all"),
    "Softmax LogSoftmax Softmin": Op(pw.module_normalised_along(-1)),
    "Softmax2d": Op(pw.module_normalised_along(-3)),
    "MultiheadAttention": Op(pr.multihead),
    "LSTM GRU RNN LSTMCell GRUCell RNNCell": Op(pr.recurrent),
}

_CALLS: Table = {
    "F.conv1d F.conv2d F.conv3d conv1d conv2d conv3d": Op(pr.functional_conv(False), lit.conv_groups, zero="always"),
    "F.conv_transpose1d F.conv_transpose2d F.conv_transpose3d": Op(
        pr.functional_conv(True), lit.conv_groups, zero="always"
    ),
    "F.linear": Op(pr.functional_linear, zero="always"),
    "F.batch_norm F.instance_norm": Op(pr.functional_batch_norm, zero="all"),
    "F.layer_norm": Op(nm.functional_layer_norm, lit.normalized_shape, zero="all", statistics=True),
    "F.group_norm": Op(nm.functional_group_norm, lit.norm_groups, is_value=True, zero="all", statistics=True),
    "F.local_response_norm": Op(nm.local_response_norm),
    "relu relu_ tanh tanh_ abs absolute neg negative sqrt square sin tan erf sign floor ceil round trunc expm1 log1p "
    "contiguous clone detach to float double half bfloat16 type type_as cpu requires_grad_ nan_to_num F.relu F.relu_ "
    "F.relu6 F.leaky_relu F.leaky_relu_ F.elu F.elu_ F.celu F.selu F.gelu F.silu F.mish F.tanh F.hardswish F.softsign "
    "F.dropout F.dropout2d F.tanhshrink F.softshrink F.hardshrink operator.neg operator.pos operator.abs": Op(
        pw.unary, is_value=True, zero="all"
    ),
    "sigmoid sigmoid_ exp log log2 log10 rsqrt reciprocal frac cos isnan isinf "
    "isfinite logical_not F.sigmoid F.hardsigmoid F.softplus F.logsigmoid F.hardtanh F.threshold": Op(
        pw.unary, is_value=True
    ),
    "mul mul_ multiply operator.mul operator.imul": Op(pw.elementwise, is_value=True, zero="any"),
    "add add_ sub sub_ subtract maximum minimum div div_ divide true_divide operator.add operator.sub operator.iadd "
    "operator.isub operator.truediv operator.itruediv": Op(pw.elementwise, is_value=True, zero="all"),
    "clamp clamp_ clamp_min clamp_max clip "
    "pow remainder fmod where lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or logical_xor atan2 "
    "masked_fill operator.floordiv operator.pow operator.mod operator.ifloordiv operator.ipow operator.imod "
    "operator.eq operator.ne operator.lt operator.le operator.gt operator.ge operator.and_ operator.or_ operator.xor "
    "operator.invert": Op(pw.elementwise, is_value=True),
    "F.max_pool1d F.max_pool2d F.max_pool3d F.avg_pool1d F.avg_pool2d F.avg_pool3d F.adaptive_avg_pool1d "
    "F.adaptive_avg_pool2d F.adaptive_avg_pool3d F.lp_pool2d F.adaptive_max_pool1d F.adaptive_max_pool2d "
    "F.interpolate F.upsample": Op(pw.resized, zero="all"),
    "F.grid_sample": Op(pw.sampled, zero="all"),
    "norm": Op(pw.norm_along),
    "mean sum amax amin prod std var logsumexp max min argmax argmin all any median": Op(pw.reduced_along),
    "softmax log_softmax F.softmax F.log_softmax F.softmin cumsum cumprod": Op(pw.normalised_along(1)),
    "F.normalize": Op(pw.normalised_along(2, default=1)),
    "F.glu": Op(pw.glu, zero="all"),
    "view reshape": Op(mv.viewed, lit.output_sizes, zero="all"),
    "unflatten": Op(mv.mover, lit.output_sizes, zero="all"),
    "expand broadcast_to": Op(mv.expanded, lit.output_sizes),
    "repeat": Op(mv.expanded, lit.repeats),
    "expand_as": Op(mv.expanded),
    "index_select": Op(mv.index_select, lit.index_select, zero="all"),
    "zeros_like": Op(pw.unary, is_value=True, zero="always"),
    "ones_like full_like": Op(pw.unary, is_value=True),
    "new_zeros new_ones new_full new_empty new_tensor zeros ones full arange linspace eye tensor": MADE,
    "builtins.getattr": Op(mv.attribute, zero="all"),
    "flatten permute transpose t swapaxes swapdims movedim moveaxis unsqueeze flip tile "
    "repeat_interleave view_as reshape_as ravel cat concat concatenate stack pixel_unshuffle "
    "F.pixel_unshuffle": Op(mv.mover, zero="all"),
    "pixel_shuffle F.pixel_shuffle": Op(mv.pixel_shuffle, zero="all"),
    "squeeze": Op(mv.mover, lit.squeeze_dims, zero="all"),
    "chunk split split_with_sizes tensor_split": Op(mv.mover, lit.split_sizes, zero="all"),
    "operator.getitem": Op(mv.getitem, lit.getitem, zero="all"),
    "narrow": Op(mv.mover, lit.narrow, zero="all"),
    "select": Op(mv.select, lit.select, zero="all"),
    "unbind": Op(mv.unbind, zero="all"),
    "roll": Op(mv.rolled, zero="all"),
    "F.pad": Op(mv.pad, lit.pad_amounts),
    "channel_shuffle F.channel_shuffle": Op(mv.channel_shuffle, zero="all"),
    "matmul bmm mm operator.matmul": Op(ct.matmul, zero="any"),
    "einsum": Op(ct.einsum, zero="any"),
    "F.scaled_dot_product_attention": Op(ct.attention, lit.attention_scale, is_value=True),
    "F.multi_head_attention_forward": Op(pr.multihead),
}


def _rows(table: Table) -> Iterable[tuple[str, Op]]:
    return ((name, op) for names, op in table.items() for name in names.split())


def _functions(name: str) -> Iterable[Any]:
    """The functions of that name: `F.relu`, `operator.add`, and for a bare name that of torch."""
    space, _, last = name.rpartition(".")
    home: Any = {"F": F, "operator": operator, "builtins": builtins, "": torch}[space]
    found = getattr(home, last, None)
    return [found] if callable(found) and not isinstance(found, type) else []


ADDS = frozenset({"add", "add_", "sub", "sub_", torch.add, torch.sub, operator.add, operator.sub, operator.iadd})
"""Adding a number other than 0 to what is 0 does not leave 0."""

DIVIDES = frozenset({"div", "div_", "divide", "true_divide", torch.div, torch.true_divide, operator.truediv})
"""0 divided by a number is 0; by a tensor that is zeroed as well it is not."""

KEPT_WHOLE = frozenset({opaque, mv.hooked, pr.multihead, pr.recurrent, ct.matmul, ct.einsum, ct.attention})
"""Rules after which a call without a layer of its own still costs what it costs."""

MODULES: Mapping[type[nn.Module], Op] = {getattr(nn, name): op for name, op in _rows(_MODULES)}
METHODS: Mapping[str, Op] = {name: op for name, op in _rows(_CALLS) if "." not in name}
FUNCTIONS: Mapping[Any, Op] = {f: op for name, op in _rows(_CALLS) for f in _functions(name)}


def op_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Op:
    """The entry of the table for this call, or the opaque default."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if "opaque" in node.meta:
        return OPAQUE
    if module is not None and (module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)):
        return HOOKED
    if _writes_through_a_view(node, modules):
        return WRITES_THROUGH
    return _entry(node, module)


def _entry(node: fx.Node, module: nn.Module | None) -> Op:
    if module is not None:
        return MODULES.get(type(module), OPAQUE)
    if node.op == "call_method":
        return METHODS.get(str(node.target), OPAQUE)
    return FUNCTIONS.get(node.target, OPAQUE)


_VIEWS = frozenset({mv.mover, mv.viewed, mv.getitem, mv.select, mv.unbind, mv.rolled})
_ALIASES = frozenset({"contiguous", "to", "float", "double", "type", "type_as", "cpu", "detach", "requires_grad_"})


def _may_alias(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the call may return memory of its argument."""
    if not node.op.startswith("call_"):
        return False
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    same = isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)) or str(node.target) in _ALIASES
    return same or _entry(node, module).labels in _VIEWS


def _writes_through_a_view(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """An in-place op on what shares memory with something else: a cut could turn the view into a copy."""
    target = node.args[0] if node.args else None
    if not isinstance(target, fx.Node) or not writes_in_place(node, modules.get(str(node.target))):
        return False
    if any(len(n.users) > 1 for n in shared_memory(target, modules)[1:]):
        return True
    return any(user is not node and _may_alias(user, modules) for user in target.users)


def shared_memory(node: fx.Node, modules: Mapping[str, nn.Module]) -> list[fx.Node]:
    """The value and what it may be a view of, step by step."""
    shared = [node]
    while _may_alias(shared[-1], modules) and shared[-1].args and isinstance(shared[-1].args[0], fx.Node):
        shared.append(shared[-1].args[0])
    return shared
