"""SHA256SUMS: what every file of a result was when it was written, for `pagcp verify` and `sha256sum -c` alike.

The last line, a comment, is the hash of those above: a damaged list is told from a damaged file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256 as digest
from pathlib import Path

from pagcp_cli.folder import SUMS
from pagcp_cli.weights import sha256
from specs.diagnostics import Diagnostic

__all__ = ["check_sums", "reseal", "seal", "unlisted"]

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\n]+)\n")
_LAST = "# sha256 of the lines above: {}\n"
_HINT = "restore it, or compile anew"


def seal(folder: Path) -> None:
    """Write the list of all files that lie in the folder now."""
    lines = _listed({name: sha256(folder / name) for name in _names(folder)})
    (folder / SUMS).write_text(_sealed(lines), encoding="utf-8", newline="\n")


def reseal(folder: Path, name: str) -> None:
    """List that file as it is now, all others as they were; nothing where the list is missing or not whole."""
    path = folder / SUMS
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = {match[2]: match[1] for match in _LINE.finditer(text)}
    if text and text == _sealed(_listed(found)):
        lines = _listed({**found, name: sha256(folder / name)})
        path.write_text(_sealed(lines), encoding="utf-8", newline="\n")


def check_sums(folder: Path) -> tuple[Diagnostic, ...]:
    """E610 for every file that is missing or not as it was written; the list itself, if that is damaged."""
    try:
        text = (folder / SUMS).read_bytes().decode("utf-8")
    except FileNotFoundError:
        return (_damaged(folder, SUMS, "is missing: nothing says what was written"),)
    except (OSError, UnicodeDecodeError):
        return (_damaged(folder, SUMS, "cannot be read"),)
    lines = "".join(match[0] for match in _LINE.finditer(text))
    if text != _sealed(lines):
        return (_damaged(folder, SUMS, "is not as it was written"),)
    return tuple(_differing(folder, lines))


def unlisted(folder: Path) -> tuple[str, ...]:
    """Names of files in the folder that are not in its list, which must be whole."""
    listed = {match[2] for match in _LINE.finditer((folder / SUMS).read_text(encoding="utf-8"))}
    return tuple(name for name in _names(folder) if name not in listed)


def _differing(folder: Path, lines: str) -> Iterator[Diagnostic]:
    for match in _LINE.finditer(lines):
        try:
            if sha256(folder / match[2]) != match[1]:
                yield _damaged(folder, match[2], "is not as it was written")
        except FileNotFoundError:
            yield _damaged(folder, match[2], "is missing")
        except OSError as error:
            yield _damaged(folder, match[2], f"cannot be read: {(error.strerror or 'unreadable').lower()}")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)


def _listed(sums: Mapping[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _sealed(lines: str) -> str:
    return lines + _LAST.format(digest(lines.encode()).hexdigest())


def _damaged(folder: Path, name: str, told: str) -> Diagnostic:
    return Diagnostic("E610", f"{name} {told}", str(folder / name), _HINT)
