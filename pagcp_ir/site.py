"""Site: one call in the graph, as a rule sees it: the op, its arguments in labels, the value it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pagcp_ir.labels import Labels, Ref
from pagcp_ir.program import TRACE_BATCH

__all__ = ["MISSING", "Rule", "Site", "opaque", "pinned"]

MISSING: Any = object()
Rule = Callable[["Site"], Any]


@dataclass(frozen=True)
class Site:
    """Arguments hold label tensors for activations, `Ref` for parameters and buffers, plain values for the rest."""

    labels: Labels
    node: fx.Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: nn.Module | None
    names: Mapping[int, str]

    @property
    def value(self) -> Any:
        """What the call returns at tracing batch: fake tensors, sizes, containers of them."""
        return self.node.meta["value"]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that the call returns."""
        return tuple(self.value.shape)

    def per_sample(self, count: int) -> int:
        """What one sample has of something that the call has `count` times at tracing batch.

        Wherever the batch lies: windows are often folded into its axis. A constant is computed once for all.
        """
        constant = self.node.name in self.labels.constant or count % TRACE_BATCH
        return count if constant else count // TRACE_BATCH

    def arg(self, index: int, name: str, default: Any = MISSING) -> Any:
        """A positional or keyword argument. KeyError when it is missing without a default."""
        if index < len(self.args):
            return self.args[index]
        if name in self.kwargs:
            return self.kwargs[name]
        if default is MISSING:
            raise KeyError(name)
        return default

    def own(self, name: str) -> Ref | None:
        """The module's own parameter or buffer of that name, None where it has none."""
        tensor = getattr(self.module, name, None)
        return Ref(self.names[id(tensor)], tensor) if isinstance(tensor, Tensor) else None

    def as_labels(self, argument: Any) -> Tensor:
        """A tensor argument in labels: parameters element by element."""
        return self.labels.element_labels(argument) if isinstance(argument, Ref) else argument

    def operands(self) -> Iterator[Tensor | Ref]:
        """All tensor arguments, containers flattened."""
        for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))):
            if isinstance(leaf, (Tensor, Ref)):
                yield leaf


def pinned(site: Site, reason: str) -> Any:
    """Pin whatever the call touches, and return values that are always there."""
    for operand in site.operands():
        if isinstance(operand, Ref):
            site.labels.freeze(operand, reason)
        else:
            site.labels.pin(operand, reason)
    if site.module is not None:
        for tensor in (*site.module.parameters(), *site.module.buffers()):
            if id(tensor) in site.names:
                site.labels.freeze(Ref(site.names[id(tensor)], tensor), reason)

    def fix(value: Any) -> Any:
        return site.labels.fixed(tuple(value.shape), reason) if isinstance(value, Tensor) else value

    return pytree.tree_map(fix, site.value)


def opaque(site: Site) -> Any:
    """The default: an op that the table does not know declines for all channels it touches."""
    if "opaque" in site.node.meta:
        return pinned(site, f"`{site.labels.op}` is kept whole: {site.node.meta['opaque']}")
    return pinned(site, f"`{site.labels.op}` is not in the op table")
