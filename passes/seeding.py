"""Random states are borrowed, never spent: what runs inside leaves every global generator as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["borrowed_rng", "reseed"]


def reseed(seed: int) -> None:
    """Seed every global generator; inside `borrowed_rng` only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():  # torch.manual_seed would note the whole call stack where there is no GPU: 4 ms
        torch.cuda.manual_seed_all(seed)


@contextmanager
def borrowed_rng(seed: int | None = None) -> Iterator[None]:
    """Run the block with the global generators seeded (when a seed is given) and restore them afterwards."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            reseed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
