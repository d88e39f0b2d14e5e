"""channels_last: networks and images with channels innermost in memory. Values differ in their last bits.

A network that asks for memory in the usual order, as view does, does not run so, and is refused with what to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.batches import Batch
from specs.diagnostics import PassError

__all__ = ["in_channels_last", "refusing"]


def _last_channels(batch: Batch) -> Batch:
    """The batch, its images [N, C, H, W] with channels innermost."""
    return replace(batch, inputs=tuple(_turned(each) for each in batch.inputs))


def in_channels_last(module: fx.GraphModule) -> fx.GraphModule:
    """The module, which must be nobody else's, with tensors of its own for weights of four dimensions."""
    for child in module.modules():
        for name, weight in child._parameters.items():
            if weight is not None and weight.ndim == 4:
                child._parameters[name] = nn.Parameter(_turned(weight.detach()), weight.requires_grad)
    return module


def _turned(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def refusing(run: Callable[[int, Batch], Any], number: int, batch: Batch) -> Any:
    """What `run` makes of the batch with channels innermost. PassError P410 where that does not run."""
    try:
        return run(number, _last_channels(batch))
    except RuntimeError as error:
        told = (str(error).strip().splitlines() or [""])[0]
        message = f"the network does not run with channels last: {told}"
        raise PassError.one("P410", message, hint="leave out channels_last, or use reshape in place of view") from error
