"""Batches: what networks are run on. How samples are put into them, and whether they can be taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Batch", "chunks", "collates_rows", "mixed"]


@dataclass(frozen=True)
class Batch:
    """Positional inputs [size, ...], the target as the collate function made it, and the number of samples."""

    inputs: tuple[Tensor, ...]
    target: Any
    size: int
    by_row: bool = True
    """Whether the samples may be told apart and put together anew by the first axis of what they hold."""


def chunks(order: Sequence[int], size: int) -> list[list[int]]:
    """Consecutive chunks of `size`; a shorter last one is merged into the one before."""
    parts = [list(order[i : i + size]) for i in range(0, len(order), size)]
    if len(parts) > 1 and len(parts[-1]) < size:
        last = parts.pop()
        parts[-1] += last
    return parts


def mixed(given: Sequence[Iterator[Batch]], sizes: Sequence[int]) -> Iterator[Batch]:
    """The batches of all, each one's as far apart as their number of samples allows, until all are at their end."""
    left, done = dict(enumerate(given)), [0] * len(given)
    while left:
        turn = min(left, key=lambda i: (done[i] / sizes[i], i))
        batch = next(left[turn], None)
        if batch is None:
            del left[turn]
        else:
            done[turn] += batch.size
            yield batch


def collates_rows(function: Callable[[list[Any]], Any], source: Any, order: Sequence[int]) -> bool:
    """Whether what the collate function makes of these samples is, row by row, what it makes of each of them."""
    try:
        samples = [source[i] for i in order]
        whole = pytree.tree_leaves(function(samples))
        rows = [pytree.tree_leaves(function([sample])) for sample in samples]
        return all(_same_rows(leaf, parts) for leaf, *parts in zip(whole, *rows, strict=True))
    except Exception:  # noqa: BLE001 - the user's code need not take a single sample; what else it raises comes again
        return False


def _same_rows(whole: Any, parts: Sequence[Any]) -> bool:
    """Whether the rows of a tensor are these tensors."""
    if not isinstance(whole, Tensor) or len(whole) != len(parts):
        return False
    rows = torch.cat(list(parts))
    return whole.shape == rows.shape and bool(((whole == rows) | ((whole != whole) & (rows != rows))).all())
