"""Program: a traced network that nothing mutates: an fx graph, its tensors, and the shape of every value.

Every node carries `meta["value"]` (a fake tensor, an int, or a container of them, at batch 2) and `meta["where"]`
("model.py:12", the user's source line, never a machine path).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx

__all__ = ["TRACE_BATCH", "Program", "Route", "TensorSpec", "example_inputs"]

TRACE_BATCH = 2
"""Batch size of the example: 1 would hide the batch axis in broadcasts."""

Route = Literal["fx", "export", "pt2"]
"""How the graph was found: by torch.fx, by torch.export in its place, or in a .pt2 file."""


@dataclass(frozen=True)
class TensorSpec:
    """One positional input: its shape, batch first, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def example(self, batch: int, generator: torch.Generator, size: tuple[int, ...] | None = None) -> Tensor:
        """A random tensor of shape [batch, *shape[1:]]; `size` replaces the dims after the channels."""
        shape = (batch, *self.shape[1:])
        if size is not None and len(shape) == 2 + len(size):
            shape = (*shape[:2], *size)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(self.dtype)
        return torch.randint(0, 2, shape, generator=generator).to(self.dtype)


@dataclass(frozen=True, eq=False)
class Program:
    """A traced network in eval mode. `module` is shared, never mutated: take `copy()` to train or mask it.

    `notes`: what a person should know of the tracing, such as the sub-modules that are kept whole, and why.
    `any_size`: it was seen to compute what the model does at another image size, too.
    """

    module: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = field(default=())
    route: Route = "fx"
    any_size: bool = False

    def another_size(self) -> tuple[int, int] | None:
        """A height and width beside those of the first image among the inputs; None where no input is an image."""
        images = [spec.shape[2:] for spec in self.inputs if len(spec.shape) == 4]
        if not images:
            return None
        height, width = images[0]
        return height + 32 * max(1, height // 64), width + 64 * max(1, width // 128)

    def copy(self) -> fx.GraphModule:
        """A deep copy of the module, free to be trained, masked or moved."""
        return copy.deepcopy(self.module)

    def example_inputs(self, batch: int = 2, seed: int = 0, size: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        """Seeded random inputs, one per positional argument, each [batch, ...]."""
        return example_inputs(self.inputs, batch, seed, size)

    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name, a tensor that is shared under its first name only."""
        return self._tensors

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = dict(self.module.named_parameters())
        found.update(dict(self.module.named_buffers()))
        return found

    def text(self) -> str:
        """The program as text, one value a line: `name: f32[2, 16, 8, 8] = op(arguments)`."""
        from pagcp_ir.text import program_text

        return program_text(self)

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """The outputs in eval mode without gradients."""
        with torch.no_grad():
            return self.module(*inputs)


def example_inputs(
    specs: Sequence[TensorSpec], batch: int, seed: int = 0, size: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Seeded random tensors, one per spec, each [batch, ...]."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(spec.example(batch, generator, size) for spec in specs)
