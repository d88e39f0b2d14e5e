"""torch.fx's tracer with values: each proxy carries the value it stands for.

Because a proxy knows its shape, `list(x.chunk(2, 1))`, `b, c, h, w = x.shape`, `len(xs)` and `range(x.shape[1])` work.
Sizes stay nodes of the graph where they can; a branch on data is refused with its source line. A sub-module that
cannot be traced becomes an opaque leaf, and tracing starts over.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx._symbolic_trace import _maybe_revert_all_patches, _wrapped_fns_to_patch
from torch.utils import _pytree as pytree

from pagcp_ir.program import TRACE_BATCH, TensorSpec
from pagcp_ir.source import innermost, user_line
from pagcp_ir.values import Fakes, fake_mode, fake_of, quick_value, real_run
from specs.diagnostics import TraceError

__all__ = ["Symbolic", "symbolic"]


@dataclass(frozen=True)
class Symbolic:
    """`leaves`: the sub-modules kept whole, with the reason. `outputs`: of the graph on the inputs."""

    module: fx.GraphModule
    leaves: Mapping[str, str]
    outputs: Any


def symbolic(root: nn.Module, specs: Sequence[TensorSpec], inputs: Sequence[Tensor]) -> Symbolic:
    """The graph with the value of every node, found by running it on `inputs`. Raises TraceError T201-T203.

    A function that the user wrapped as a leaf (torch.fx.wrap) is traced where that works, and a leaf where it does not.
    """
    try:
        with _unwrapped_functions() as any_wrapped:
            found = _attempt(root, specs, inputs)
    except TraceError:
        if not any_wrapped:
            raise
    else:
        if not found.leaves or not any_wrapped:
            return found
    return _attempt(root, specs, inputs)


@contextmanager
def _unwrapped_functions() -> Iterator[bool]:
    wrapped = dict(_wrapped_fns_to_patch)
    _wrapped_fns_to_patch.clear()
    try:
        yield bool(wrapped)
    finally:
        _wrapped_fns_to_patch.update(wrapped)


def _attempt(root: nn.Module, specs: Sequence[TensorSpec], inputs: Sequence[Tensor]) -> Symbolic:
    leaves: dict[str, str] = {}
    while True:
        tracer = _ShapeTracer(specs, leaves)
        try:
            graph = tracer.trace(root)
            module = fx.GraphModule(root, graph, class_name=type(root).__name__)
            return Symbolic(module, leaves, tracer.record(module, inputs))
        except _SubmoduleFailed as failed:
            leaves[failed.path] = failed.reason


class _SubmoduleFailed(Exception):
    """Tracing inside a sub-module failed: it becomes a leaf."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class _NodeFailed(Exception):
    """A value could not be computed; the cause is what went wrong."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node


class _ValueProxy(fx.Proxy):
    """A proxy that knows its value, once it is asked: a fake tensor, or a plain Python value for sizes."""

    @property
    def value(self) -> Any:
        tracer: Any = self.tracer
        return tracer.value_of(self.node)

    @property
    def is_tensor(self) -> bool:
        tracer: Any = self.tracer
        return tracer.makes_tensor(self.node) or isinstance(self.value, Tensor)

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
        chosen = operation if self.is_tensor else plain
        return self.tracer.create_proxy("call_function", chosen, (self, other), {})

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or", "xor"):
    _plain = getattr(operator, _name, None) or getattr(operator, _name + "_")
    setattr(_ValueProxy, f"__i{_name}__", _in_place(getattr(operator, "i" + _name), _plain))


_WRITES = frozenset(getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "pow"))
"""Made above for tensors only."""
_CONTAINERS = (nn.RNNBase, nn.MultiheadAttention, nn.modules.pooling._MaxPoolNd)
"""torch's modules that may return more than a tensor."""


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


_FACTORIES = (torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace, torch.eye, torch.tensor)
"""Made from sizes alone, which torch.fx does not see: `torch.zeros(b, c // 2, h, w)`."""


class _ShapeTracer(fx.Tracer):
    """torch.fx's tracer with values on proxies, buffers as nodes, and opaque leaves."""

    proxy_buffer_attributes = True

    def __init__(self, inputs: Sequence[TensorSpec], leaves: dict[str, str]) -> None:
        super().__init__(param_shapes_constant=False)
        self._autowrap_search.append(torch)
        self._autowrap_function_ids.update(map(id, _FACTORIES))
        self.specs, self.leaves, self.mode = tuple(inputs), leaves, fake_mode()
        self.pending: list[fx.Node] = []
        self.names: dict[int, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        named["proxy_factory_fn"] = None
        proxy = super().create_proxy(kind, target, args, kwargs, *rest[:2], **named)
        proxy.node.meta["where"] = user_line() if kind != "placeholder" else ""
        if "value" not in proxy.node.meta and kind != "placeholder":
            self.pending.append(proxy.node)
        return proxy

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **named)
        if kind == "get_attr":  # also made for tensors that forward creates
            node.meta["value"], node.meta["where"] = self._stored(str(target)), user_line()
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter or buffer of the model as a node. torch.fx looks through all of them every time."""
        name = self.names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def _stored(self, target: str) -> Any:
        """A tensor of a module. Looked up by hand: torch.fx patches getattr meanwhile, and undoing that takes long."""
        module, (*path, name) = self.root, target.split(".")
        for step in path:
            module = module._modules[step]  # type: ignore[assignment]
        return next(t[name] for t in (module._parameters, module._buffers, vars(module)) if name in t)

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
        except (_SubmoduleFailed, _NodeFailed):
            raise
        except Exception as error:
            if self.is_leaf_module(m, path) or not path:
                raise
            raise _SubmoduleFailed(path, _reason(error)) from error

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        tensors = (*root.named_buffers(), *root.named_parameters())
        self.names = {id(tensor): name for name, tensor in tensors}
        try:
            graph = super().trace(root, concrete_args)
            for node in graph.nodes:  # else the code of the graph would enter the function in torch.fx's table
                node.meta.pop("is_wrapped", None)
            return graph
        except (TraceError, _SubmoduleFailed):
            raise
        except _NodeFailed as failed:
            raise self._blamed(failed) from failed
        except Exception as error:
            raise self._refused(error, user_line(error.__traceback__)) from error

    def record(self, module: fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        """Run the graph: the values of all its nodes, and its outputs. Raises as `trace` does."""
        try:
            with torch.no_grad():
                return _Recorder(module, self.mode).run(*inputs)
        except _NodeFailed as failed:
            raise self._blamed(failed) from failed

    def _blamed(self, failed: _NodeFailed) -> Exception:
        """The innermost module whose value failed is kept whole; at the top the model is refused."""
        node, cause = failed.node, failed.__cause__
        assert isinstance(cause, Exception)
        where = node.meta.get("where", "")
        path = innermost(node)
        module = self.root.get_submodule(path)
        if not path or self.is_leaf_module(module, path):
            return self._refused(cause, where)
        return _SubmoduleFailed(path, f"{type(cause).__name__}: {_first_line(cause)} ({where})")

    def _refused(self, error: Exception, where: str) -> TraceError:
        return TraceError.one(
            "T202",
            f"{type(self.root).__name__} cannot be traced: {type(error).__name__}: {error}",
            where=where,
            hint="move what fails into a sub-module of its own: it is then kept whole and the rest is cut",
        )

    def makes_tensor(self, node: fx.Node) -> bool:
        """Whether this is surely a tensor, without asking for its value."""
        if node.op == "call_module":
            kind = type(self.root.get_submodule(str(node.target)))
            return kind.__module__.startswith("torch.nn.modules.") and not issubclass(kind, _CONTAINERS)
        return node.op == "placeholder" or node.target in _WRITES

    def value_of(self, node: fx.Node) -> Any:
        """What the node stands for. Values are computed when the first of them is asked for."""
        if "value" not in node.meta:
            pending, self.pending = self.pending, []
            with _maybe_revert_all_patches(), torch.no_grad():
                for waiting in pending:
                    try:
                        waiting.meta["value"] = self._evaluate(waiting)
                    except Exception as error:
                        raise _NodeFailed(waiting) from error
        return node.meta["value"]

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
        call = self._callable(node)
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
        if node.op == "call_method":
            return lambda self_, *a, **k: getattr(self_, str(node.target))(*a, **k)
        assert callable(node.target)
        return node.target


class _Recorder(fx.Interpreter):
    """Runs a graph for real and leaves on each node a fake of its value, of the same shape and dtype."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.fakes = Fakes(mode)

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            raise _NodeFailed(n) from error
        if n.op != "get_attr":
            n.meta["value"] = pytree.tree_map(self._fake, value)
        return value

    def _fake(self, value: Any) -> Any:
        return self.fakes.of(value.shape, value.dtype) if isinstance(value, Tensor) else value


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
    return f"{type(error).__name__}: {_first_line(error)} ({user_line(error.__traceback__)})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""
