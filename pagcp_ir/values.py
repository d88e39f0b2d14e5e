"""Shapes of every value, found by running the graph on fake tensors: no arithmetic, no random data.

A node whose op has no fake implementation (a user's opaque module) is run once on random data instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Fakes", "fake_mode", "fake_of", "fixed_macs", "propagate", "quick_value", "real_run", "resize", "shape_of"]


def fake_mode() -> FakeTensorMode:
    """A mode in which real parameters may meet fake activations."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_of(shape: Sequence[int], dtype: torch.dtype, mode: FakeTensorMode) -> Tensor:
    """A fake tensor of that shape: it has a dtype and strides, but no data."""
    with mode:
        return torch.empty(tuple(shape), dtype=dtype)


class Fakes:
    """Fake tensors of one mode by shape and dtype: making one takes longer than most ops, and nobody changes them."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode, self.known = mode, dict[tuple[tuple[int, ...], torch.dtype], Tensor]()

    def of(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As fake_of."""
        key = tuple(shape), dtype
        if key not in self.known:
            self.known[key] = fake_of(*key, self.mode)
        return self.known[key]


def real_run(mode: FakeTensorMode, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run `call` on seeded random data in place of fake tensors and return the result as fake tensors."""
    generator = torch.Generator().manual_seed(0)

    def realise(value: Any) -> Any:
        if not isinstance(value, FakeTensor):
            return value
        if value.dtype.is_floating_point:
            return torch.rand(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
        return torch.zeros(value.shape, dtype=value.dtype)

    real_args, real_kwargs = pytree.tree_map(realise, (args, kwargs))
    with torch.no_grad():
        result = call(*real_args, **real_kwargs)
    return pytree.tree_map(lambda v: fake_of(v.shape, v.dtype, mode) if isinstance(v, Tensor) else v, result)


_NORMS = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d})


def quick_value(module: nn.Module, args: Sequence[Any]) -> Tensor | None:
    """What a BatchNorm in eval mode makes of a fake tensor, None where it has to be run: its own way there is slow."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    if type(module) not in _NORMS or module.training or hooks or len(args) != 1:
        return None
    x, features = args[0], getattr(module, "num_features", 0)
    fits = isinstance(x, FakeTensor) and x.ndim > 1 and x.shape[1] == features and x.is_floating_point()
    return torch.empty_like(x) if fits else None


Before = Callable[[fx.Node], None]


class _Propagator(fx.Interpreter):
    """Interpret the graph under a fake mode and leave each node's value in `meta["value"]`."""

    def __init__(
        self, module: nn.Module, mode: FakeTensorMode, before: Before | None, graph: fx.Graph | None = None
    ) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.mode, self.before = mode, before

    def run_node(self, n: fx.Node) -> Any:
        if self.before is not None:
            self.before(n)
        with torch.no_grad():
            value = self._evaluate(n)
        n.meta["value"] = value
        return value

    def _evaluate(self, node: fx.Node) -> Any:
        try:
            with self.mode:
                found = None
                if node.op == "call_module" and not node.kwargs:
                    found = quick_value(self.fetch_attr(str(node.target)), self.fetch_args_kwargs_from_env(node)[0])
                return super().run_node(node) if found is None else found
        except Exception:
            if node.op not in ("call_module", "call_function", "call_method"):
                raise
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            run = getattr(self, node.op)
            return real_run(self.mode, lambda *a, **k: run(node.target, a, k), args, kwargs)


def propagate(
    module: fx.GraphModule, inputs: Sequence[tuple[Sequence[int], torch.dtype]], before: Before | None = None
) -> None:
    """Fill `meta["value"]` of every node for inputs of these shapes and dtypes. Raises what the network raises.

    `before` sees each node when the values of its arguments are known, and may still change it.
    """
    mode = fake_mode()
    _Propagator(module, mode, before).run(*(fake_of(shape, dtype, mode) for shape, dtype in inputs))


class _Resizer(_Propagator):
    """Takes the shapes of tensors as they are told; sizes and containers are computed."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shapes: Mapping[str, Sequence[int]], before: Before) -> None:
        super().__init__(root, fake_mode(), before, graph)
        self.shapes, self.fakes = shapes, Fakes(self.mode)

    def _evaluate(self, node: fx.Node) -> Any:
        if node.name in self.shapes:
            return self.fakes.of(self.shapes[node.name], node.meta["value"].dtype)
        return super()._evaluate(node)


def resize(root: nn.Module, graph: fx.Graph, shapes: Mapping[str, Sequence[int]], before: Before) -> None:
    """Give the nodes of a graph new values: of the shapes told by name, where there are any; `before` as above.

    Raises what a size or a container raises that cannot be computed.
    """
    run = _Resizer(root, graph, shapes, before)
    run.run(*(n.meta["value"] for n in graph.nodes if n.op == "placeholder"))


def fixed_macs(node: fx.Node, module: nn.Module | None) -> int:
    """MACs of one call at tracing batch: what torch's flop counter counts on fake tensors, 0 where it counts none."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
    tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, FakeTensor)]
    if not tensors or node.op == "call_method" or tensors[0].ndim == 0:
        return 0
    call: Any = module if module is not None else node.target
    mode = tensors[0].fake_mode
    try:
        with FlopCounterMode(display=False) as counter, mode, torch.no_grad():
            call(*args, **kwargs)
    except Exception:  # noqa: BLE001 - a branch on data, for one: it needs data
        with FlopCounterMode(display=False) as counter, suppress(Exception):
            real_run(mode, call, args, kwargs)
    return int(counter.get_total_flops() // 2)


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor value, None for anything else."""
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else None
