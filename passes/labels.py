"""Labels that some samples lack, and data that is only some tasks'.

In a sample a missing label is None. In a batch it is a Partial: what the samples that have it are together, and which
these are. A task's loss and metric see those samples alone (tasks.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

__all__ = ["Partial", "TargetOf", "collate", "join", "lacking", "shapes", "take"]

Shapes = dict[tuple[Any, ...], tuple[int, ...] | None]
"""By path: what a tensor's rows look like; None for what no sample of the batch has."""


@dataclass(frozen=True)
class Partial:
    """A part of the target of a batch of `size` that only the samples `rows` (int64, ascending) have.

    `value`: theirs, collated; None where there are none.
    """

    value: Any
    rows: Tensor
    size: int


@dataclass(frozen=True)
class TargetOf:
    """The target of a batch that is these tasks' alone."""

    tasks: frozenset[str]
    value: Any


def _partial(parts: Iterable[Any], size: Any) -> Partial:
    value, rows = parts
    return Partial(value, rows, size)


def _target_of(parts: Iterable[Any], tasks: Any) -> TargetOf:
    (value,) = parts
    return TargetOf(tasks, value)


# so that they are moved between devices, and counted, as other trees are
pytree.register_pytree_node(Partial, lambda p: ([p.value, p.rows], p.size), _partial)
pytree.register_pytree_node(TargetOf, lambda t: ([t.value], t.tasks), _target_of)


def collate(samples: Sequence[Any]) -> Any:
    """torch's default_collate of (input, target), for targets of which some samples lack a part too.

    ValueError for dicts with different keys: what is missing is None, so that a key that is misspelt is not.
    """
    pairs = all(isinstance(sample, (tuple, list)) and len(sample) == 2 for sample in samples)
    targets = [sample[1] for sample in samples] if pairs else []
    if not pairs or not _lacks(targets):
        return default_collate(list(samples))
    return default_collate([sample[0] for sample in samples]), _together(targets)


def lacking(tree: Any) -> bool:
    """Whether some samples lack a part of that target."""
    found = pytree.tree_leaves(tree, is_leaf=lambda node: isinstance(node, Partial))
    return any(isinstance(leaf, Partial) for leaf in found)


def shapes(tree: Any, size: int) -> Shapes | None:
    """What the rows of a tree's tensors look like; None unless every leaf is a tensor with the samples first."""
    found: Shapes = {}
    return found if _shapes(tree, size, (), found) else None


def join(trees: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Batches of those sizes, of trees with equal shapes, as one."""
    first = trees[0]
    if any(isinstance(tree, Partial) for tree in trees):
        return _joined_parts(trees, sizes)
    if isinstance(first, TargetOf):
        return TargetOf(first.tasks, join([tree.value for tree in trees], sizes))
    if isinstance(first, Tensor):
        return torch.cat(list(trees))
    if isinstance(first, dict):
        return type(first)((key, join([tree[key] for tree in trees], sizes)) for key in first)
    return _like(first, [join(column, sizes) for column in zip(*trees, strict=True)])


def take(tree: Any, index: Tensor) -> Any:
    """The samples at `index` (int64) of a tree whose tensors have the samples first."""
    if isinstance(tree, Partial):
        place = torch.full((tree.size,), -1)
        place[tree.rows.cpu()] = torch.arange(len(tree.rows))
        place = place[index.cpu()]
        rows = (place >= 0).nonzero().flatten()
        value = take(tree.value, place[rows]) if len(rows) else None
        return Partial(value, rows.to(tree.rows.device), len(index))
    if isinstance(tree, TargetOf):
        return TargetOf(tree.tasks, take(tree.value, index))
    if isinstance(tree, Tensor):
        return tree[index.to(tree.device)]
    if isinstance(tree, dict):
        return type(tree)((key, take(value, index)) for key, value in tree.items())
    return _like(tree, [take(value, index) for value in tree])


def _lacks(targets: Sequence[Any]) -> bool:
    """Whether a part is None in some of them."""
    first = targets[0]
    if any(target is None for target in targets):
        return True
    if all(isinstance(target, Mapping) for target in targets):
        for target in targets:
            if target.keys() != first.keys():
                few, many = sorted((list(first), list(target)), key=len)
                raise ValueError(f"targets have the keys {few} and {many}; where a label is missing its value is None")
        return any(_lacks([target[key] for target in targets]) for key in first)
    if _columns(targets):
        return any(_lacks(column) for column in zip(*targets, strict=True))
    return False


def _together(targets: Sequence[Any]) -> Any:
    there = [i for i, target in enumerate(targets) if target is not None]
    if len(there) < len(targets):
        value = _together([targets[i] for i in there]) if there else None
        return Partial(value, torch.tensor(there, dtype=torch.int64), len(targets))
    if all(isinstance(target, Mapping) for target in targets):
        return {key: _together([target[key] for target in targets]) for key in targets[0]}
    if _columns(targets) and _lacks(targets):
        return _like(targets[0], [_together(column) for column in zip(*targets, strict=True)])
    return default_collate(list(targets))


def _columns(targets: Sequence[Any]) -> bool:
    """Whether all are tuples, or all lists, of one length."""
    first = targets[0]
    return isinstance(first, (tuple, list)) and all(
        type(target) is type(first) and len(target) == len(first) for target in targets
    )


def _like(sequence: Any, values: list[Any]) -> Any:
    """The values in a list, tuple or named tuple such as that."""
    if hasattr(sequence, "_fields"):
        return type(sequence)(*values)
    return type(sequence)(values)


def _shapes(tree: Any, size: int, path: tuple[Any, ...], found: Shapes) -> bool:
    if isinstance(tree, Partial):
        if not len(tree.rows):
            found[path] = None
            return True
        return _shapes(tree.value, len(tree.rows), path, found)
    if isinstance(tree, TargetOf):
        return _shapes(tree.value, size, (*path, tree.tasks), found)
    if isinstance(tree, Tensor):
        found[path] = tuple(tree.shape[1:])
        return bool(tree.ndim) and len(tree) == size
    if type(tree) in (dict, OrderedDict):
        return all(_shapes(value, size, (*path, key), found) for key, value in tree.items())
    if isinstance(tree, (tuple, list)):
        return all(_shapes(value, size, (*path, i), found) for i, value in enumerate(tree))
    return False


def _joined_parts(trees: Sequence[Any], sizes: Sequence[int]) -> Partial:
    """Of trees of which some are Partial."""
    rows, values, counts, start = list[Tensor](), list[Any](), list[int](), 0
    for tree, size in zip(trees, sizes, strict=True):
        here = tree.rows if isinstance(tree, Partial) else torch.arange(size)
        rows.append(here + start)
        if len(here):
            values.append(tree.value if isinstance(tree, Partial) else tree)
            counts.append(len(here))
        start += size
    device = next((tree.rows.device for tree in trees if isinstance(tree, Partial)), torch.device("cpu"))
    value = join(values, counts) if values else None
    return Partial(value, torch.cat([each.to(device) for each in rows]), start)
