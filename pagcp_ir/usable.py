"""Tensors that can be worked with: parameters in single or double precision, nothing trained that is NaN or infinite.

Everything is measured and proven in at least single precision. Infinity in a buffer may be meant, as in a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from specs.diagnostics import Diagnostic, TraceError

__all__ = ["require_usable"]

_PRECISIONS = (torch.float32, torch.float64)
_STATISTICS = ("running_mean", "running_var")
_LISTED = 8
Named = Iterable[tuple[str, Tensor]]


def require_usable(parameters: Named, buffers: Named, where: str = "") -> None:
    """TraceError T210 for parameters in half precision or complex ones, T211 for NaN and infinity, with the names.

    `where`: the spec's line that the tensors come from.
    """
    trained = dict(parameters)
    other = [(name, t) for name, t in trained.items() if _is_odd(t)]
    if other:
        name, tensor = other[0]
        more = f" and {len(other) - 1} more parameters are" if len(other) > 1 else " is"
        dtype = str(tensor.dtype).removeprefix("torch.")
        message = f"{name}{more} {dtype}: networks are measured, proven and trained in float32"
        hint = "the factory may end with model.float(), and the result be converted back: load().bfloat16()"
        if tensor.is_complex():
            hint = "keep real and imaginary part as two parameters (torch.view_as_real)"
        raise TraceError.one("T210", message, where, hint)
    found = [*_not_finite(trained.items(), where), *_not_finite(buffers, where, masks=True)]
    if len(found) > _LISTED:
        found[_LISTED:] = [Diagnostic("T211", f"{len(found) - _LISTED} more tensors are not finite", where)]
    if found:
        raise TraceError(found)


def _is_odd(tensor: Tensor) -> bool:
    return tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _PRECISIONS)


def _not_finite(named: Named, where: str, *, masks: bool = False) -> Iterator[Diagnostic]:
    """`masks`: infinity counts in the statistics of norms alone."""
    for name, tensor in named:
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        allowed = masks and not name.endswith(_STATISTICS)
        bad = tensor.isnan() if allowed else ~tensor.isfinite()
        if bool(bad.any()):
            kind = "NaN" if bool(tensor.isnan().any()) else "infinity"
            hint = "the training diverged, or the file is damaged: take an earlier checkpoint"
            yield Diagnostic(
                "T211", f"{name} holds {kind}, in {int(bad.sum())} of {tensor.numel()} values", where, hint
            )
