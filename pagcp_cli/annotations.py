"""Diagnostics as GitHub's workflow commands: `::error file=net.yaml,line=3,col=5,title=S104::message`."""

from __future__ import annotations

import re

from specs.diagnostics import Diagnostic

__all__ = ["annotation"]

_PLACE = re.compile(r"(?P<file>.+?)(:(?P<line>\d+))?(:(?P<col>\d+))?$")


def annotation(found: Diagnostic) -> str:
    """One line; GitHub shows it at the place in the file, or in the run's summary where there is none."""
    place = _PLACE.match(found.where)
    fields = {key: text for key, text in place.groupdict().items() if text} if place else {}
    fields["title"] = f"pagcp {found.code}"
    named = ",".join(f"{key}={_property(text)}" for key, text in fields.items())
    return f"::{found.severity} {named}::{_data('. '.join(filter(None, (found.message, found.hint))))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
