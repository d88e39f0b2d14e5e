"""Trained weights into a freshly built network: every tensor finds its place, or the error says which do not.

Files are data, never code: .safetensors, or .pt read with weights_only=True.
"""

from __future__ import annotations

import difflib
import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from specs.diagnostics import Diagnostic, TraceError

__all__ = ["load_weights", "sha256"]

_NESTED = ("state_dict", "model_state_dict", "model")
_LISTED = 8


def load_weights(model: nn.Module, path: Path, where: str = "") -> None:
    """Load `path` into `model`, in place. `where`: the spec's line that names the file.

    Raises TraceError: T204 unreadable, T205 names that do not match, T206 shapes that do not match.
    """
    weights = _unprefixed(_read(path, where))
    expected = model.state_dict()
    problems = list(_names(expected, weights, where)) or list(_shapes(expected, weights, where))
    if problems:
        raise TraceError(problems)
    model.load_state_dict(weights, strict=False)


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path, where: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's text advises to load it all the same
        hint = "only tensors are read: save model.state_dict(), not the model"
        raise TraceError.one(
            "T204", f"cannot read {path.name}: it holds something other than tensors", where, hint
        ) from error
    except Exception as error:  # zip and torch errors of any type
        told = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise TraceError.one("T204", f"cannot read {path.name}: {told}", where) from error
    return _state_dict(found, path, where)


def _state_dict(found: Any, path: Path, where: str) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
    ):
        message = f"{path.name} holds no state dict"
        raise TraceError.one("T204", message, where, "save model.state_dict(), alone or under 'state_dict'")
    return dict(found)


def _unprefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names without the `module.` that DataParallel and DistributedDataParallel put before them."""
    while weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def _names(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> Iterable[Diagnostic]:
    places: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        places.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), []).append(name)
    # a tensor with two names, as tied weights have, is stored once; batch counters are missing in old checkpoints
    tied = {name for names in places.values() if any(n in given for n in names) for name in names}
    missing = [n for n in expected if n not in given and n not in tied and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    for names, what, others in (
        (missing, "no value for", unexpected or list(given)),
        (unexpected, "no place for", missing or list(expected)),
    ):
        for name in names[:_LISTED]:
            close = difflib.get_close_matches(name, others, n=1)
            yield Diagnostic("T205", f"{what} {name}", where, f"is it {close[0]}?" if close else "")
        if len(names) > _LISTED:
            yield Diagnostic("T205", f"{what} {len(names) - _LISTED} more tensors", where)


def _shapes(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> Iterable[Diagnostic]:
    wrong = [n for n, t in given.items() if n in expected and expected[n].shape != t.shape]
    for name in wrong[:_LISTED]:
        here, there = list(expected[name].shape), list(given[name].shape)
        hint = "do model.args build the network that was trained?"
        yield Diagnostic("T206", f"{name} is {there} in the file and {here} in the network", where, hint)
    if len(wrong) > _LISTED:
        yield Diagnostic("T206", f"{len(wrong) - _LISTED} more shapes differ", where)
