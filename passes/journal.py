"""The journal: append-only JSON lines, each flushed on its own, so that a killed run has lost nothing.

Records carry no path and no clock time: `kind`, the event's own fields, seconds where something was timed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

__all__ = ["Journal", "Kind", "read_journal"]

Kind = Literal["evaluation", "pass_start", "pass_end", "compensated", "epoch", "kept", "warning"]


class Journal:
    """Writes records to `path`; without a path it drops them."""

    def __init__(self, path: Path | None = None) -> None:
        self._file: TextIO | None = None if path is None else path.open("a", encoding="utf-8")

    def write(self, kind: Kind, **fields: Any) -> None:
        """Append one record and flush it."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, **_plain(fields)}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; later records are dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All complete records; a last line that was cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records


def _plain(value: Any) -> Any:
    """JSON's own types; a float that JSON does not have becomes the text "nan", "inf" or "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
