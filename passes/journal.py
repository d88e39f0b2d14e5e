"""The journal: append-only JSON lines, each flushed on its own, so that a killed run has lost nothing that it finished.

Records carry no path and no clock time: `kind`, the event's own fields, seconds where something was timed. A journal
that is opened again is gone through again: what is written anew as it stands there already is not written twice, and
what was remembered is recalled. Long rows of numbers lie in a file of their own beside it, float64.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from passes.records import Kind, Odd, record_of
from specs.diagnostics import SpecError

__all__ = ["Journal", "Kind", "Numbers", "Remembered", "plain", "read_journal"]

Numbers = NDArray[np.float64]
SYNCED = 1.0
"""Seconds after which what was flushed is forced onto the disk: a power cut loses no more than that."""
MAX_LINE = 64 * 2**20
"""Bytes of a line at most."""
_UNTOLD = ("start", "resumed", "answer")
"""Kinds that are not gone through again: they are about the journal, or are asked for by key."""


@dataclass(frozen=True)
class Remembered:
    """What `Journal.remember` was given: fields in JSON's types, and rows of numbers by name."""

    fields: Mapping[str, Any]
    rows: Mapping[str, Numbers]


class Journal:
    """Writes records to `path`, and long rows to `rows`; goes on with what is there. Without a path it drops them.

    A last line that a kill cut off is removed. SpecError S123 for any other line that is no record.
    """

    def __init__(self, path: Path | None = None, rows: Path | None = None) -> None:
        self._file: BinaryIO | None = None
        self._rows: BinaryIO | None = None
        self._told: deque[dict[str, Any]] = deque()
        self._answers: dict[str, Remembered] = {}
        self._synced = time.monotonic()
        self.identity: Mapping[str, Any] | None = None
        """The fields of the first record, `start`, of the run that is gone on with."""
        self.worked = False
        """Whether anything that took work was written, now or before."""
        if path is not None:
            self._open(path, rows)

    @property
    def kept(self) -> bool:
        """Whether records are written anywhere."""
        return self._file is not None

    @property
    def known(self) -> int:
        """How many answers can be recalled."""
        return len(self._answers)

    def write(self, kind: Kind, **fields: Any) -> None:
        """Append one record and flush it; nothing where it is the next one that is there already."""
        if self._file is None:
            return
        record = {"kind": kind, **plain(fields)}
        if self._told and kind not in _UNTOLD:
            if _same(self._told[0], record):
                self._told.popleft()
                return
            self._told.clear()
            self._append({"kind": "warning", "message": "from here on the run did not go as it did before"})
        self._append(record)

    def skip(self, kind: Kind) -> None:
        """Leave out what is there already up to the next record of that kind, whose work is not done again."""
        while self._told and self._told[0]["kind"] != kind:
            self._told.popleft()

    def remember(self, key: str, fields: Mapping[str, Any], rows: Mapping[str, Numbers] | None = None) -> None:
        """Append an answer: `recall` finds it by its key when the journal is opened again."""
        if self._file is None:
            return
        found = {name: np.ascontiguousarray(row, dtype="<f8") for name, row in (rows or {}).items()}
        if found and self._rows is None:  # nowhere to put them: the answer is asked for again
            return
        record = {"kind": "answer", "key": key, **plain(fields)}
        if found and self._rows is not None:
            data = b"".join(row.tobytes() for row in found.values())
            sizes = {name: row.size for name, row in found.items()}
            record["rows"] = {"at": self._rows.tell(), "sizes": sizes, "crc": zlib.crc32(data)}
            self._rows.write(data)
            self._rows.flush()
        self._append(record)

    def recall(self, key: str) -> Remembered | None:
        """What was remembered under that key before the journal was opened."""
        return self._answers.get(key)

    def close(self) -> None:
        """Close the files; later records are dropped. Each is closed, whatever happens to the other."""
        with ExitStack() as stack:
            for file in (self._file, self._rows):
                if file is not None:
                    stack.callback(file.close)
                    stack.callback(_forced, file)
            self._file = self._rows = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self.worked |= record["kind"] in ("answer", "epoch")
        if time.monotonic() - self._synced > SYNCED:
            for file in (self._rows, self._file):
                if file is not None:
                    _forced(file)
            self._synced = time.monotonic()

    def _open(self, path: Path, rows: Path | None) -> None:
        records, whole = _read(path)
        end = 0
        data = rows.read_bytes() if rows is not None and rows.is_file() else b""
        for record in records:
            if record["kind"] == "start":
                self.identity = {key: value for key, value in record.items() if key != "kind"}
            elif record["kind"] == "answer":
                end = max(end, self._learn(record, data))
            elif record["kind"] not in _UNTOLD:
                self._told.append(record)
            self.worked |= record["kind"] in ("answer", "epoch")
        self._file = _at(path, whole)
        self._rows = None if rows is None else _at(rows, end)

    def _learn(self, record: dict[str, Any], data: bytes) -> int:
        """Take up an answer if all of it is there; the end of its rows."""
        fields = {key: value for key, value in record.items() if key not in ("kind", "key", "rows")}
        place: dict[str, Any] | None = record.get("rows")
        if place is None:
            self._answers[record["key"]] = Remembered(fields, {})
            return 0
        at, size = int(place["at"]), 8 * int(sum(place["sizes"].values()))
        if zlib.crc32(data[at : at + size]) != place["crc"] or len(data) < at + size:
            return 0
        numbers = np.frombuffer(data[at : at + size], dtype="<f8")
        parts = np.split(numbers, np.cumsum(list(place["sizes"].values()))[:-1])
        self._answers[record["key"]] = Remembered(fields, dict(zip(place["sizes"], parts, strict=True)))
        return at + size


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All records; a last line that was cut off by a kill is left out. SpecError S123 for another that is none."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records, and where the last one ends."""
    records: list[dict[str, Any]] = []
    end = 0
    if not path.is_file():
        return records, end
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE + 1):
            try:
                if len(line) > MAX_LINE:
                    raise Odd(f"is longer than {MAX_LINE >> 20} MiB")
                if not line.endswith(b"\n"):
                    raise Odd("does not end", torn=True)
                records.append(record_of(line))
            except Odd as odd:
                if odd.torn and _is_blank(file):  # what a kill or a power cut left
                    break
                raise _damaged(path, len(records) + 1, odd) from odd
            end += len(line)
    return records, end


def _is_blank(file: BinaryIO) -> bool:
    """Whether nothing follows, or nothing but the zeros of a power cut."""
    return not any(block.strip(b"\0\r\n\t ") for block in iter(lambda: file.read(1 << 20), b""))


def _damaged(path: Path, number: int, odd: Odd) -> SpecError:
    hint = f"undo the change; or cut the file before line {number}, to go on from there; or --force without --resume"
    return SpecError.one("S123", f"this line of the journal {odd}", f"{path}:{number}", hint)


def _forced(file: BinaryIO) -> None:
    """Out of our buffer, and onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def _at(path: Path, end: int) -> BinaryIO:
    """The file, cut to its first `end` bytes, open for appending."""
    file = path.open("ab")
    file.truncate(end)
    file.seek(end)
    return file


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two records say the same, whatever time it took."""
    written = json.loads(json.dumps(new))
    return {**old, "seconds": 0} == {**written, "seconds": 0}


def plain(value: Any) -> Any:
    """JSON's own types; a float that JSON does not have becomes the text "nan", "inf" or "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
