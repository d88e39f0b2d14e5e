"""torch.fx's tracer with values: each proxy carries the value it stands for.

Because a proxy knows its shape, `list(x.chunk(2, 1))`, `b, c, h, w = x.shape`, `len(xs)` and `range(x.shape[1])` work.
Sizes stay nodes of the graph where they can; a branch on data is refused with its source line. A sub-module that
cannot be traced becomes an opaque leaf, and tracing starts over.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _maybe_revert_all_patches, _wrapped_fns_to_patch
from torch.utils import _pytree as pytree

from pagcp_ir.program import TRACE_BATCH, TensorSpec
from pagcp_ir.source import user_line
from pagcp_ir.values import fake_mode, fake_of, quick_value, real_run
from specs.diagnostics import TraceError

__all__ = ["symbolic"]


def symbolic(root: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[fx.GraphModule, dict[str, str]]:
    """The graph, and the sub-modules that had to be kept whole, with the reason. Raises TraceError T201-T203.

    A function that the user wrapped as a leaf (torch.fx.wrap) is traced where that works, and a leaf where it does not.
    """
    try:
        with _unwrapped_functions() as any_wrapped:
            module, leaves = _attempt(root, inputs)
    except TraceError:
        if not any_wrapped:
            raise
    else:
        if not leaves or not any_wrapped:
            return module, leaves
    return _attempt(root, inputs)


@contextmanager
def _unwrapped_functions() -> Iterator[bool]:
    wrapped = dict(_wrapped_fns_to_patch)
    _wrapped_fns_to_patch.clear()
    try:
        yield bool(wrapped)
    finally:
        _wrapped_fns_to_patch.update(wrapped)


def _attempt(root: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[fx.GraphModule, dict[str, str]]:
    leaves: dict[str, str] = {}
    while True:
        tracer = _ShapeTracer(inputs, leaves)
        try:
            graph = tracer.trace(root)
        except _SubmoduleFailed as failed:
            leaves[failed.path] = failed.reason
            continue
        return fx.GraphModule(root, graph, class_name=type(root).__name__), leaves


class _SubmoduleFailed(Exception):
    """Tracing inside a sub-module failed: it becomes a leaf."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class _ValueProxy(fx.Proxy):
    """A proxy that knows its value: a fake tensor, or a plain Python value for sizes."""

    @property
    def value(self) -> Any:
        return self.node.meta["value"]

    def __getattr__(self, k: str) -> Any:
        return _ValueAttribute(self, k)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        items = [operator.getitem(self, i) for i in range(len(self.value))]
        return iter(items)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __bool__(self) -> bool:
        return bool(self._concrete("a branch"))

    def __index__(self) -> int:
        return operator.index(self._concrete("an index"))

    def __int__(self) -> int:
        return int(self._concrete("int()"))

    def __float__(self) -> float:
        return float(self._concrete("float()"))

    def _concrete(self, use: str) -> Any:
        if isinstance(self.value, Tensor):
            raise TraceError.one(
                "T201",
                f"the control flow depends on data: {use} reads the value of `{self.node.name}`",
                where=user_line(),
                hint="compute both sides and select with torch.where, or move the branch out of forward",
            )
        return self.value


def _in_place(operation: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`v += 1` writes into a tensor, and into whatever it is a view of; sizes are simply added."""

    def method(self: _ValueProxy, other: Any) -> Any:
        chosen = operation if isinstance(self.value, Tensor) else plain
        return self.tracer.create_proxy("call_function", chosen, (self, other), {})

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or", "xor"):
    _plain = getattr(operator, _name, None) or getattr(operator, _name + "_")
    setattr(_ValueProxy, f"__i{_name}__", _in_place(getattr(operator, "i" + _name), _plain))


class _ValueAttribute(_ValueProxy):
    """`x.shape`: becomes a node only when it is used as a value rather than called."""

    def __init__(self, root: _ValueProxy, attr: str) -> None:
        self.root, self.attr = root, attr
        self.tracer = root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


class _ShapeTracer(fx.Tracer):
    """torch.fx's tracer with values on proxies, buffers as nodes, and opaque leaves."""

    proxy_buffer_attributes = True

    def __init__(self, inputs: Sequence[TensorSpec], leaves: dict[str, str]) -> None:
        super().__init__(param_shapes_constant=False)
        self.specs, self.leaves, self.mode = tuple(inputs), leaves, fake_mode()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        named["proxy_factory_fn"] = None
        proxy = super().create_proxy(kind, target, args, kwargs, *rest[:2], **named)
        proxy.node.meta["where"] = user_line() if kind != "placeholder" else ""
        if kind != "placeholder":
            proxy.node.meta["value"] = self._evaluate(proxy.node)
        return proxy

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **named)
        if kind == "get_attr":  # also made for tensors that forward creates
            node.meta["value"], node.meta["where"] = self._evaluate(node), user_line()
        return node

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        names = _argument_names(root_fn, len(self.specs), type(self.root).__name__)
        proxies = []
        for name, spec in zip(names, self.specs, strict=True):
            proxy = self.create_proxy("placeholder", name, (), {})
            proxy.node.meta["value"] = fake_of((TRACE_BATCH, *spec.shape[1:]), spec.dtype, self.mode)
            proxies.append(proxy)
        return root_fn, [self.root, *proxies]

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            path = self.path_of_module(m)
        except NameError:  # made inside forward, `nn.Softmax(1)(x)`: what it calls is traced instead
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except _SubmoduleFailed:
            raise
        except Exception as error:
            if self.is_leaf_module(m, path) or not path:
                raise
            raise _SubmoduleFailed(path, _reason(error)) from error

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        try:
            return super().trace(root, concrete_args)
        except (TraceError, _SubmoduleFailed):
            raise
        except Exception as error:
            raise TraceError.one(
                "T202",
                f"{type(root).__name__} cannot be traced: {type(error).__name__}: {error}",
                where=user_line(error.__traceback__),
                hint="move what fails into a sub-module of its own: it is then kept whole and the rest is cut",
            ) from error

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
        call = self._callable(node)
        with _maybe_revert_all_patches(), torch.no_grad():
            try:
                with self.mode:
                    found = quick_value(call, args) if isinstance(call, nn.Module) and not kwargs else None
                    return call(*args, **kwargs) if found is None else found
            except Exception:
                if not any(isinstance(v, Tensor) for v in pytree.tree_leaves((args, kwargs))):
                    raise
                return real_run(self.mode, call, args, kwargs)

    def _callable(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            return lambda: getattr(self.root.get_submodule(path), name)
        if node.op == "call_method":
            return lambda self_, *a, **k: getattr(self_, str(node.target))(*a, **k)
        assert callable(node.target)
        return node.target


def _argument_names(forward: Callable[..., Any], count: int, model: str) -> list[str]:
    parameters = list(inspect.signature(inspect.unwrap(forward)).parameters.values())[1:]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return [f"input_{i}" for i in range(count)]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if not len(required) <= count <= len(positional):
        raise TraceError.one(
            "T203",
            f"{model}.forward takes {len(required)} inputs ({', '.join(p.name for p in required)}), got {count}",
            hint="give one shape per positional input under model.inputs, or wrap the model with model.adapter",
        )
    return [p.name for p in positional[:count]]


def _reason(error: Exception) -> str:
    if isinstance(error, TraceError):
        first = error.diagnostics[0]
        return f"{first.message} ({first.where})" if first.where else first.message
    where = user_line(error.__traceback__)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({where})"
