"""`protect`: layers whose channels stay whole, chosen by glob over layer names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pagcp_ir.channels import Role
from pagcp_ir.labels import Labels
from specs.diagnostics import Diagnostic, GraphError, nearest

__all__ = ["pin_protected"]

_SIDES: dict[str, tuple[Role, ...]] = {"out": ("out",), "in": ("in",), "both": ("out", "in")}


def pin_protected(labels: Labels, globs: Sequence[str]) -> None:
    """Pin the outputs (`glob`, `glob:out`), inputs (`glob:in`) or both (`glob:both`) of matching layers.

    Raises GraphError G302 for every glob that matches no layer, naming near matches.
    """
    layers = sorted({layer.name for layer in labels.layers})
    wrong = []
    for text in globs:
        pattern, _, side = text.partition(":")
        hits = [name for name in layers if fnmatchcase(name, pattern)]
        if not hits or side not in ("", *_SIDES):
            wrong.append(_unmatched(text, pattern, side, layers))
            continue
        _pin(labels, text, set(hits), _SIDES[side or "out"])
    if wrong:
        raise GraphError(wrong)


def _pin(labels: Labels, text: str, hits: set[str], roles: tuple[Role, ...]) -> None:
    for layer in labels.layers:
        if layer.name not in hits:
            continue
        labels.where = ""
        if "out" in roles:
            labels.pin(layer.outputs, f"protected by `{text}`")
        if "in" in roles:
            labels.pin(layer.inputs, f"protected by `{text}`")


def _unmatched(text: str, pattern: str, side: str, layers: list[str]) -> Diagnostic:
    if side not in ("", *_SIDES):
        return Diagnostic("G302", f"model.protect: `{text}` ends in `:{side}`", hint="use :in, :out or :both")
    return Diagnostic("G302", f"model.protect: `{text}` matches no layer", hint=nearest(pattern, layers))
