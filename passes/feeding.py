"""The user's batches and the network: what is said where they do not fit each other, or memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.utils import _pytree as pytree

from pagcp_ir.program import Program, TensorSpec
from passes.batches import Batch
from passes.blame import out_of_memory, words
from passes.data import Split, Splits
from passes.seeding import borrowed_rng
from specs.diagnostics import DataError

__all__ = ["feeding", "memory_ran_out", "require_fit"]

PROBE = 2
"""Samples of each split that are tried before anything is searched."""


def require_fit(program: Program, data: Splits, calibration: Sequence[Batch] = ()) -> None:
    """DataError D707 where the network does not take the first samples of a split; before hours have passed.

    Of the calibration batches, which are at hand, one of each size is tried.
    """
    for split in data.given.values():
        for part in split.parts or (split,):
            if part.indexed:
                _tried(program, replace(part, device=split.device))
    seen = set()
    for number, batch in enumerate(calibration):
        size = tuple((tuple(value.shape[1:]), value.dtype) for value in batch.inputs)
        if size not in seen:
            seen.add(size)
            few = replace(batch, inputs=tuple(value[:PROBE] for value in batch.inputs), size=min(PROBE, batch.size))
            _run(program, few, f"calibration split, batch {number}")


def _tried(program: Program, split: Split) -> None:
    with borrowed_rng(split.seed):
        _run(program, split.first(PROBE), f"{split.name} split, batch 0")


def _run(program: Program, batch: Batch, place: str) -> None:
    try:
        with borrowed_rng(0), torch.inference_mode():
            program.module(*batch.inputs)
    except Exception as error:
        if out_of_memory(error):
            raise memory_ran_out(place, batch) from error
        raise _refused(place, batch, program.inputs, error) from error


@contextmanager
def feeding(place: str, batch: Batch, specs: tuple[TensorSpec, ...] = ()) -> Iterator[None]:
    """Inside a network runs on the batch. DataError D717 where memory runs out.

    D707 where it fails and the batch has other sizes than `specs`, on which the network was traced; anything else
    that fails is not the data's fault.
    """
    try:
        yield
    except DataError:
        raise
    except (RuntimeError, MemoryError, ValueError, IndexError, TypeError) as error:
        if out_of_memory(error):
            raise memory_ran_out(place, batch) from error
        if specs and any(_other(value, spec) for value, spec in zip(batch.inputs, specs, strict=False)):
            raise _refused(place, batch, specs, error) from error
        raise


def memory_ran_out(place: str, batch: Batch | None = None) -> DataError:
    """The error for it."""
    size = "" if batch is None else f" of {batch.size} samples"
    hint = "lower data.batch_size or data.workers, or give the process more memory"
    return DataError.one("D717", f"memory ran out at {place}{size}", hint=hint)


def _other(value: torch.Tensor, spec: TensorSpec) -> bool:
    return tuple(value.shape[1:]) != tuple(spec.shape[1:]) or value.dtype != spec.dtype


def _refused(place: str, batch: Batch, specs: tuple[TensorSpec, ...], error: Exception) -> DataError:
    got, expected = _told(batch.inputs), ", ".join(map(_spec, specs))
    kinds = [value.dtype for value in batch.inputs], [spec.dtype for spec in specs]
    hint = f"model.inputs of the spec is {expected}"
    if kinds[0] != kinds[1] and len(kinds[0]) == len(kinds[1]):
        hint += "; convert in the dataset, as in x.float()" if torch.float32 in kinds[1] else "; convert in the dataset"
    return DataError.one("D707", f"{place}: the network does not take {got}: {words(error)}", hint=hint)


def _told(inputs: object) -> str:
    leaves = pytree.tree_leaves(inputs)
    return ", ".join(f"{str(v.dtype).removeprefix('torch.')}{list(v.shape)}" for v in leaves)


def _spec(spec: TensorSpec) -> str:
    return f"{str(spec.dtype).removeprefix('torch.')}[{', '.join(['N', *map(str, spec.shape[1:])])}]"
