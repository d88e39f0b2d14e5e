"""Checkpoints: what training needs to go on after a kill, and what finished transformers made, as files in a folder.

A file appears whole or not at all: it is written beside its place, forced onto the disk and renamed. It ends with the
digest of all before: one that was damaged since is as none. Passes are numbered in the order in which a run comes to
them, which is the same in every run of a spec.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pagcp_ir.program import Program
from passes.processes import broadcast_object

__all__ = ["Checkpoint", "Checkpoints", "Place"]


@dataclass(frozen=True)
class Checkpoint:
    """Where one pass keeps its state; without a path nowhere. States are trees of tensors, numbers, texts and None."""

    path: Path | None = None
    there: bool = False

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last before the run was killed; None when there is none."""
        return broadcast_object("a checkpoint", lambda: _loaded(self.path) if self.path and self.there else None)

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state in place of the one before."""
        if self.path is not None:
            _saved(dict(state), self.path)


@dataclass(frozen=True)
class Place:
    """One transformer's: its state while it runs, and what it made."""

    running: Checkpoint
    done: Checkpoint

    def made(self, before: Program) -> Program | None:
        """What the transformer made of `before`, if it ran to its end before the run was killed."""
        tensors = self.done.load()
        if tensors is None or _kinds(tensors) != _kinds(before.tensors()):
            return None
        program = replace(before, module=before.copy())
        with torch.no_grad():
            for name, tensor in program.tensors().items():
                tensor.copy_(tensors[name])
        return program

    def finish(self, before: Program, after: Program) -> None:
        """Keep what the transformer made, if all that it changed is in tensors, and forget its state."""
        if self.done.path is not None and before.text() == after.text():
            self.done.save({name: tensor.detach() for name, tensor in after.tensors().items()})
        if self.running.path is not None:
            self.running.path.unlink(missing_ok=True)


class Checkpoints:
    """The places of a run's transformers, in `folder`. Only what lay there when the run began is read."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder, self._number = folder, 0
        there = folder.iterdir() if folder is not None and folder.is_dir() else ()
        self._found = frozenset(path.name for path in there)

    def next(self, name: str) -> Place:
        """That of the transformer that runs next."""
        self._number += 1
        if self._folder is None:
            return Place(Checkpoint(), Checkpoint())
        files = [f"{self._number:03}-{name}.{what}.pt" for what in ("running", "done")]
        return Place(*(Checkpoint(self._folder / file, file in self._found) for file in files))


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _saved(state: dict[str, Any], path: Path) -> None:
    beside, buffer = path.with_name(path.name + ".part"), BytesIO()
    torch.save(state, buffer)
    with beside.open("wb") as file:
        file.write(buffer.getbuffer())
        file.write(sha256(buffer.getbuffer()).digest())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _loaded(path: Path) -> dict[str, Any] | None:
    """None for a file that is no checkpoint of ours: the work is done again."""
    try:
        whole = memoryview(path.read_bytes())
    except OSError:
        return None
    size = len(whole) - sha256().digest_size
    if size <= 0 or sha256(whole[:size]).digest() != whole[size:]:
        return None
    state: dict[str, Any] = torch.load(BytesIO(whole[:size]), map_location="cpu", weights_only=True)
    return state
