"""By which data a run is known again: how many samples a split has, and what the first and the last of them are.

Cheap, and enough for other files, another order or another preparation. An item that is another one each time it is
read (random augmentation of its own) says nothing, and does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from passes.data import Split, SplitName, Splits
from passes.seeding import borrowed_rng

__all__ = ["data_identity", "digest", "said"]

SEEN: tuple[SplitName, ...] = ("train", "validation")
"""Splits that a run's answers depend on, besides calibration, of which all is looked at."""


def data_identity(data: Splits) -> dict[str, str]:
    """By split: the digest of what is cheap to know of it."""
    return {name: digest(_facts(data.given[name])) for name in SEEN if name in data}


def digest(parts: Iterable[bytes]) -> str:
    """The hash of these bytes, one after the other."""
    found = sha256()
    for part in parts:
        found.update(part)
    return f"sha256:{found.hexdigest()}"


def said(leaf: Any) -> bytes:
    """A leaf of a sample as bytes that are the same in another process; of an object that is not data its type."""
    if isinstance(leaf, Tensor):
        head = f"{leaf.dtype}{tuple(leaf.shape)}".encode()
        return head + leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject:
        return f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes()
    if leaf is None or isinstance(leaf, (bool, int, float, str, bytes)):
        return repr(leaf).encode(errors="replace")
    return type(leaf).__qualname__.encode()


def _facts(split: Split) -> Iterable[bytes]:
    for part in split.parts or (split,):
        try:
            size = len(part)
        except TypeError:  # a stream
            yield b"a stream"
            continue
        yield f"{part.name}: {size}".encode()
        if part.indexed:
            for index in sorted({0, size - 1}):
                first, again = (_item(part, index) for _ in range(2))
                if first == again:
                    yield first


def _item(part: Split, index: int) -> bytes:
    with borrowed_rng(part.seed):
        return digest(said(leaf) for leaf in pytree.tree_leaves(part.item(index))).encode()
