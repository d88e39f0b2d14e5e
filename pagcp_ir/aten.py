"""ATen calls of an exported graph as the torch functions and methods that the op table knows, one row per op.

A row is the call as Python, its names those of the operator's schema. It applies only where it says everything that
the call says: an argument that is neither named in the row nor at its default leaves the ATen call as it is.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from pagcp_ir.rules import METHODS

__all__ = ["to_torch"]

_IGNORED = frozenset(
    {"cudnn_enabled", "cudnn_enable", "pin_memory", "layout", "device", "non_blocking", "half_to_float", "implicit"}
)
"""Arguments that say nothing when they are empty or false, or name the CPU."""

_SIDES = frozenset({"kernel_size", "stride", "padding", "output_padding", "dilation", "output_size", "scale_factors"})
# several rows for one op are tried in turn; [0] takes the first of several results, of which the others must be unused
_ROWS: Mapping[str, tuple[str, ...]] = {
    "conv1d": ("F.conv1d(input, weight, bias, stride, padding, dilation, groups)",),
    "conv2d": ("F.conv2d(input, weight, bias, stride, padding, dilation, groups)",),
    "conv3d": ("F.conv3d(input, weight, bias, stride, padding, dilation, groups)",),
    "linear": ("F.linear(input, weight, bias)",),
    "dropout": ("F.dropout(input, p, train)",),
    "conv_transpose1d": ("F.conv_transpose1d(input, weight, bias, stride, padding, output_padding, groups, dilation)",),
    "conv_transpose2d": ("F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)",),
    "conv_transpose3d": ("F.conv_transpose3d(input, weight, bias, stride, padding, output_padding, groups, dilation)",),
    "batch_norm": ("F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)",),
    "_native_batch_norm_legit_no_training": (
        "F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)[0]",
    ),
    "instance_norm": (
        "F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)",
    ),
    "layer_norm": ("F.layer_norm(input, normalized_shape, weight, bias, eps)",),
    "native_layer_norm": ("F.layer_norm(input, normalized_shape, weight, bias, eps)[0]",),
    "group_norm": ("F.group_norm(input, num_groups, weight, bias, eps)",),
    "relu": ("F.relu(self)",),
    "gelu": ("F.gelu(self, approximate=approximate)",),
    "silu": ("F.silu(self)",),
    "silu_": ("F.silu(self, inplace=True)",),
    "mish": ("F.mish(self)",),
    "mish_": ("F.mish(self, inplace=True)",),
    "hardswish": ("F.hardswish(self)",),
    "hardswish_": ("F.hardswish(self, inplace=True)",),
    "hardsigmoid": ("F.hardsigmoid(self)",),
    "hardsigmoid_": ("F.hardsigmoid(self, inplace=True)",),
    "relu6": ("F.relu6(self)",),
    "relu6_": ("F.relu6(self, inplace=True)",),
    "hardtanh": ("F.hardtanh(self, min_val, max_val)",),
    "hardtanh_": ("F.hardtanh(self, min_val, max_val, inplace=True)",),
    "leaky_relu": ("F.leaky_relu(self, negative_slope)",),
    "leaky_relu_": ("F.leaky_relu(self, negative_slope, inplace=True)",),
    "elu": ("F.elu(self, alpha)",),
    "elu_": ("F.elu(self, alpha, inplace=True)",),
    "celu": ("F.celu(self, alpha)",),
    "selu": ("F.selu(self)",),
    "softplus": ("F.softplus(self, beta, threshold)",),
    "log_sigmoid": ("F.logsigmoid(self)",),
    "prelu": ("F.prelu(self, weight)",),
    "glu": ("F.glu(self, dim)",),
    "softmax": ("torch.softmax(self, dim, dtype=dtype)",),
    "_softmax": ("torch.softmax(self, dim)",),
    "log_softmax": ("torch.log_softmax(self, dim, dtype=dtype)",),
    "_log_softmax": ("torch.log_softmax(self, dim)",),
    "max_pool1d": ("F.max_pool1d(self, kernel_size, stride, padding, dilation, ceil_mode)",),
    "max_pool2d": ("F.max_pool2d(self, kernel_size, stride, padding, dilation, ceil_mode)",),
    "max_pool3d": ("F.max_pool3d(self, kernel_size, stride, padding, dilation, ceil_mode)",),
    "max_pool2d_with_indices": ("F.max_pool2d(self, kernel_size, stride, padding, dilation, ceil_mode)[0]",),
    "avg_pool1d": ("F.avg_pool1d(self, kernel_size, stride, padding, ceil_mode, count_include_pad)",),
    "avg_pool2d": ("F.avg_pool2d(self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)",),
    "avg_pool3d": ("F.avg_pool3d(self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)",),
    "adaptive_avg_pool1d": ("F.adaptive_avg_pool1d(self, output_size)",),
    "adaptive_avg_pool2d": ("F.adaptive_avg_pool2d(self, output_size)",),
    "_adaptive_avg_pool2d": ("F.adaptive_avg_pool2d(self, output_size)",),
    "adaptive_avg_pool3d": ("F.adaptive_avg_pool3d(self, output_size)",),
    "adaptive_max_pool1d": ("F.adaptive_max_pool1d(self, output_size)[0]",),
    "adaptive_max_pool2d": ("F.adaptive_max_pool2d(self, output_size)[0]",),
    "pad": ("F.pad(self, pad, mode, value)",),
    "constant_pad_nd": ("F.pad(self, pad, value=value)",),
    "reflection_pad1d": ("F.pad(self, padding, mode='reflect')",),
    "reflection_pad2d": ("F.pad(self, padding, mode='reflect')",),
    "replication_pad2d": ("F.pad(self, padding, mode='replicate')",),
    "upsample_nearest1d": ("F.interpolate(input, size=output_size, scale_factor=scale_factors)",),
    "upsample_nearest2d": ("F.interpolate(input, size=output_size, scale_factor=scale_factors)",),
    "upsample_nearest3d": ("F.interpolate(input, size=output_size, scale_factor=scale_factors)",),
    "_upsample_nearest_exact2d": (
        "F.interpolate(input, size=output_size, scale_factor=scale_factors, mode='nearest-exact')",
    ),
    "upsample_linear1d": (
        "F.interpolate(input, size=output_size, scale_factor=scale_factors, mode='linear', "
        "align_corners=align_corners)",
    ),
    "upsample_bilinear2d": (
        "F.interpolate(input, size=output_size, scale_factor=scale_factors, mode='bilinear', "
        "align_corners=align_corners)",
    ),
    "upsample_bicubic2d": (
        "F.interpolate(input, size=output_size, scale_factor=scale_factors, mode='bicubic', "
        "align_corners=align_corners)",
    ),
    "upsample_trilinear3d": (
        "F.interpolate(input, size=output_size, scale_factor=scale_factors, mode='trilinear', "
        "align_corners=align_corners)",
    ),
    "_upsample_bilinear2d_aa": (
        "F.interpolate(input, size=output_size, scale_factor=scale_factors, mode='bilinear', "
        "align_corners=align_corners, antialias=True)",
    ),
    "pixel_shuffle": ("F.pixel_shuffle(self, upscale_factor)",),
    "pixel_unshuffle": ("F.pixel_unshuffle(self, downscale_factor)",),
    "channel_shuffle": ("F.channel_shuffle(self, groups)",),
    "scaled_dot_product_attention": (
        "F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, "
        "is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)",
    ),
    "linalg_vector_norm": ("self.norm(ord, dim, keepdim)",),
    "embedding": ("F.embedding(indices, weight)",),
    "matmul": ("operator.matmul(self, other)",),
    "bmm": ("torch.bmm(self, mat2)",),
    "einsum": ("torch.einsum(equation, *tensors)",),
    "add": ("operator.add(self, other)", "torch.add(self, other, alpha=alpha)"),
    "sub": ("operator.sub(self, other)", "torch.sub(self, other, alpha=alpha)"),
    "rsub": ("operator.sub(other, self)",),
    "mul": ("operator.mul(self, other)",),
    "div": ("operator.truediv(self, other)", "torch.div(self, other, rounding_mode=rounding_mode)"),
    "floor_divide": ("operator.floordiv(self, other)",),
    "pow": ("operator.pow(self, exponent)",),
    "neg": ("operator.neg(self)",),
    "sigmoid": ("torch.sigmoid(self)",),
    "tanh": ("torch.tanh(self)",),
    "exp": ("torch.exp(self)",),
    "sqrt": ("torch.sqrt(self)",),
    "abs": ("torch.abs(self)",),
    "where": ("torch.where(condition, self, other)",),
    "maximum": ("torch.maximum(self, other)",),
    "minimum": ("torch.minimum(self, other)",),
    "cat": ("torch.cat(tensors, dim)",),
    "stack": ("torch.stack(tensors, dim)",),
    "view": ("self.view(*size)",),
    "_unsafe_view": ("self.view(*size)",),
    "reshape": ("self.reshape(*shape)",),
    "expand": ("self.expand(*size)",),
    "permute": ("self.permute(*dims)",),
    "repeat": ("self.repeat(*repeats)",),
    "split": ("self.split(split_size, dim)",),
    "split_with_sizes": ("self.split(split_sizes, dim)",),
    "sym_size": ("self.size(dim)",),
    "sym_numel": ("self.numel()",),
    "to": ("self.to(dtype)",),
    "_to_copy": ("self.to(dtype)",),
    "arange": ("torch.arange(start, end, step, dtype=dtype)", "torch.arange(end, dtype=dtype)"),
    "zeros": ("torch.zeros(*size, dtype=dtype)",),
    "ones": ("torch.ones(*size, dtype=dtype)",),
    "full": ("torch.full(size, fill_value, dtype=dtype)",),
}


def to_torch(graph: fx.Graph) -> None:
    """Rewrite the ATen calls of `graph` in place, as far as there are rows; what is left keeps its ATen name."""
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.target, OpOverload) and node.target.namespace == "aten":
            call = _Call(node, node.target)
            for row in _rows(call.name):
                if row.applies(call):
                    row.write(call)
                    break
            else:
                if call.names[:1] == ["self"] and (call.name in METHODS or _writes(call.name)):
                    call.become_method()


def _tuple(value: Any) -> Any:
    """Sizes and axes as tuples; lists of tensors stay lists."""
    return tuple(value) if isinstance(value, list) and all(isinstance(v, int) for v in value) else value


def _writes(name: str) -> bool:
    return name.endswith("_") and hasattr(Tensor, name)


class _Call:
    """An ATen call: what it was given, by the names of its schema, without what is at its default or says nothing."""

    def __init__(self, node: fx.Node, target: OpOverload) -> None:
        arguments = target._schema.arguments
        self.node, self.name = node, target._schema.name.removeprefix("aten::")
        self.names = [a.name for a in arguments]
        self.defaults = {a.name: a.default_value for a in arguments}
        self.keywords = {a.name for a in arguments if a.kwarg_only}
        given = {**dict(zip(self.names, node.args, strict=False)), **node.kwargs}
        self.given = {name: _tuple(value) for name, value in given.items() if not self._says_nothing(name, value)}

    def _says_nothing(self, name: str, value: Any) -> bool:
        if name in _IGNORED:
            return not value or str(value) in ("cpu", "torch.strided")
        if isinstance(value, (fx.Node, list, tuple)):
            return isinstance(value, (list, tuple)) and not value and name == "stride"
        default = self.defaults[name]
        return type(default) is type(value) and bool(default == value)

    def positional(self, names: Sequence[str]) -> list[Any]:
        """The values of these arguments, up to the last one that was given; defaults in between."""
        last = max((i for i, n in enumerate(names) if n in self.given), default=-1)
        return [self.given.get(n, self.defaults.get(n)) for n in names[: last + 1]]

    def become(self, op: str, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Make the node this call."""
        self.node.op, self.node.target, self.node.args, self.node.kwargs = op, target, tuple(args), dict(kwargs)

    def become_method(self) -> None:
        """The tensor's method of the same name, its arguments in the order of the schema."""
        args = self.positional([n for n in self.names if n not in self.keywords])
        self.become("call_method", self.name, args, {k: v for k, v in self.given.items() if k in self.keywords})


@dataclass(frozen=True)
class _Row:
    """One parsed row; `args` may hold a starred name, whose items are passed one by one."""

    op: str
    target: Any
    args: tuple[ast.expr, ...]
    keywords: Mapping[str, ast.expr]
    first: bool

    @property
    def names(self) -> set[str]:
        """The schema's arguments that the row passes on."""
        expressions = [*self.args, *self.keywords.values()]
        found = {n.id for e in expressions for n in ast.walk(e) if isinstance(n, ast.Name)}
        return found | {"self"} if self.op == "call_method" else found

    def applies(self, call: _Call) -> bool:
        """Whether it says all that the call says, and results that it does not make are unused."""
        required = {e.id for e in self.args if isinstance(e, ast.Name)}
        others = [u for u in call.node.users if u.target is not operator.getitem or u.args[1] != 0]
        return required <= set(call.names) and set(call.given) <= self.names and not (self.first and others)

    def write(self, call: _Call) -> None:
        """Make the node this call; `[0]` of several results becomes the one result."""
        plain = [e for e in self.args if not isinstance(e, ast.Starred)]
        names = [e.id for e in plain if isinstance(e, ast.Name)]
        values = {n: self._short(n, v) for n, v in zip(names, call.positional(names), strict=False)}
        args: list[Any] = [call.given["self"]] if self.op == "call_method" else []
        for expression in self.args:
            if isinstance(expression, ast.Constant):
                args.append(expression.value)
            elif isinstance(expression, ast.Starred) and isinstance(expression.value, ast.Name):
                args.extend(pytree.tree_leaves(call.given[expression.value.id]))
            elif isinstance(expression, ast.Name) and expression.id in values:
                args.append(values[expression.id])
        found = {k: self._keyword(call, e) for k, e in self.keywords.items()}
        call.become(self.op, self.target, args, {k: v for k, v in found.items() if v is not None})
        for user in list(call.node.users) if self.first else ():
            user.replace_all_uses_with(call.node)
            call.node.graph.erase_node(user)

    def _keyword(self, call: _Call, expression: ast.expr) -> Any:
        if isinstance(expression, ast.Constant):
            return expression.value
        name = ast.unparse(expression)
        return self._short(name, call.given.get(name))

    def _short(self, name: str, value: Any) -> Any:
        """One number for `[2, 2]`, as people write it."""
        if name not in _SIDES or self.target is F.pad or not isinstance(value, (list, tuple)):
            return value
        same = len({(type(v), v) for v in value}) == 1 and isinstance(value[0], (int, float))
        return value[0] if same else value


@functools.cache
def _rows(name: str) -> tuple[_Row, ...]:
    return tuple(_parsed(text) for text in _ROWS.get(name, ()))


def _parsed(text: str) -> _Row:
    body: Any = ast.parse(text, mode="eval").body
    first = isinstance(body, ast.Subscript)
    call: Any = body.value if first else body
    space, last = call.func.value.id, call.func.attr
    home: Any = {"F": F, "torch": torch, "operator": operator}.get(space)
    op, target = ("call_method", last) if home is None else ("call_function", getattr(home, last))
    return _Row(op, target, tuple(call.args), {k.arg: k.value for k in call.keywords}, first)
