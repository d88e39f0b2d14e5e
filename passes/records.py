"""What the lines of a journal look like: kinds, and what is read back of them. Whatever is otherwise is refused.

Lines are JSON objects of UTF-8 text. Only `start` and `answer` are read back field by field; the others are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, get_args

__all__ = ["Kind", "Odd", "record_of"]

Kind = Literal[
    "start",
    "resumed",
    "answer",
    "evaluation",
    "pass_start",
    "pass_end",
    "compensated",
    "refit",
    "epoch",
    "kept",
    "trained",
    "back_off",
    "warning",
]
_TEXTS = ("nan", "inf", "-inf")
_START = {"spec": str, "network": str, "calibration": str, "versions": dict, "code": dict, "resolved": dict}


class Odd(ValueError):
    """A line that is no record. `torn`: as a kill or a power cut leaves it, rather than an editor."""

    def __init__(self, problem: str, torn: bool = False) -> None:
        super().__init__(problem)
        self.torn = torn


def record_of(line: bytes) -> dict[str, Any]:
    """The record of that line. Odd says what is wrong with it."""
    try:
        record = json.loads(line.rstrip(b"\n").decode(), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise Odd(f"is not UTF-8 text (byte {error.start + 1})", torn=True) from error
    except json.JSONDecodeError as error:
        raise Odd(f"is not JSON: {error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})", torn=True) from error
    except RecursionError as error:
        raise Odd("is nested too deeply") from error
    except Odd:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise Odd("holds a number that is too large") from error
    if not isinstance(record, dict):
        raise Odd(f"must be an object, got {_name(record)}")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in get_args(Kind):
        raise Odd(f"has no known kind, got {json.dumps(kind)[:40]}")
    if kind == "start":
        _start(record)
    elif kind == "answer":
        _answer(record)
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Odd("has a key twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise Odd(f"holds {name}, which is not JSON")


def _start(record: Mapping[str, Any]) -> None:
    for key, kind in _START.items():
        if not isinstance(record.get(key), kind):
            raise Odd(f"must have {key} as {'text' if kind is str else 'an object'}, got {_name(record.get(key))}")
    for key in ("versions", "code", "data"):
        if not isinstance(record.get(key, {}), dict):
            raise Odd(f"must have {key} as an object, got {_name(record[key])}")
        if not all(isinstance(value, str) for value in record.get(key, {}).values()):
            raise Odd(f"must have texts in {key}")


def _answer(record: Mapping[str, Any]) -> None:
    """An answer is numbers by name, or sums over batches, with where their rows lie."""
    if not isinstance(record.get("key"), str):
        raise Odd(f"must have key as text, got {_name(record.get('key'))}")
    rows = record.get("rows")
    if rows is not None:
        _rows(rows)
    if "numbers" in record:
        _each(record, "numbers", _number)
        return
    for key, check in (("totals", _number), ("counts", _whole), ("unfit", _whole), ("sizes", _wholes)):
        _each(record, key, check)
    for key in ("done", "images"):
        _whole(record.get(key), key)
    _number(record.get("seconds"), "seconds")
    for mark, losses in record.get("parts", {}).items():
        _each({mark: losses}, mark, _number)
    if record["totals"].keys() != record["counts"].keys():
        raise Odd("must have totals and counts of the same tasks")
    for name, sizes in record["sizes"].items():
        if rows is None or rows["sizes"].get(name) != sum(sizes):
            raise Odd(f"must have as many rows of {name!r} as its sizes add up to")


def _rows(rows: Any) -> None:
    if not isinstance(rows, dict) or rows.keys() != {"at", "sizes", "crc"}:
        raise Odd("must have rows with at, sizes and crc")
    _each(rows, "sizes", _whole)
    for key in ("at", "crc"):
        _whole(rows[key], key)


def _each(record: Mapping[str, Any], key: str, check: Any) -> None:
    found = record.get(key)
    if not isinstance(found, dict):
        raise Odd(f"must have {key} as an object, got {_name(found)}")
    for name, value in found.items():
        check(value, f"{key}.{name}")


def _number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in _TEXTS):
        raise Odd(f"must have a number in {name}, got {_name(value)}")


def _whole(value: Any, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise Odd(f"must have a whole number in {name}, got {_name(value)}")


def _wholes(value: Any, name: str) -> None:
    if not isinstance(value, list):
        raise Odd(f"must have a list in {name}, got {_name(value)}")
    for item in value:
        _whole(item, name)


def _name(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float, str)):
        text = json.dumps(value)
        return text if len(text) <= 40 else text[:37] + "..."
    return "a list" if isinstance(value, list) else "an object"
