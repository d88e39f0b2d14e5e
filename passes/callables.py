"""module:callable: how a spec names the user's own functions.

The spec's folder is APPENDED to the import path: what is installed wins, and a file beside the spec that it
hides is an error, never a silent stranger.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from specs.diagnostics import DataError, nearest

__all__ = ["UserCode", "call", "resolve"]


@dataclass(frozen=True)
class UserCode:
    """What a spec brings along. `build`: makes the model anew, with its weights; `folder`: that of the spec."""

    build: Callable[[], nn.Module] | None = None
    folder: Path | None = None


def resolve(name: str, folder: Path | None, where: str = "") -> Callable[..., Any]:
    """The callable that "package.module:attribute" names; `folder` is that of the spec.

    DataError D701 when the module cannot be imported, D702 when it has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    if folder is not None and (path := str(folder.resolve())) not in sys.path:
        sys.path.append(path)
    module = _imported(module_name, name, where)
    _refuse_stranger(module_name, folder, where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_")]
            message = f"{name}: {getattr(found, '__name__', module_name)} has no {part!r}"
            raise DataError.one("D702", message, where, nearest(part, public))
        found = getattr(found, part)
    if not callable(found):
        raise DataError.one("D702", f"{name} is a {type(found).__name__}, which cannot be called", where)
    return found  # type: ignore[no-any-return]


def call(function: Callable[..., Any], name: str, where: str = "", /, **arguments: Any) -> Any:
    """`function(**arguments)`, whatever these are called. DataError D703 with its name for what it raises, or exits."""
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:
        raise DataError.one("D703", f"{name} raised {_told(error)}", where) from error


def _imported(module_name: str, name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        told = "there is no such module" if missing else f"importing it raised {_told(error)}"
        hint = "modules are looked up among those installed, then in the spec's folder" if missing else ""
        raise DataError.one("D701", f"{name}: {told}", where, hint) from error


def _refuse_stranger(module_name: str, folder: Path | None, where: str) -> None:
    """An installed or already imported module of the same name must not pass for the file beside the spec."""
    root = module_name.partition(".")[0]
    if folder is None:
        return
    mine = [p for p in (folder / f"{root}.py", folder / root / "__init__.py") if p.is_file()]
    actual = getattr(sys.modules[root], "__file__", None)
    if mine and (actual is None or not any(p.samefile(actual) for p in mine)):
        raise DataError.one(
            "D701",
            f"{root!r} beside the spec is hidden by another module of that name",
            where,
            "the spec's folder comes last on the import path; rename the file",
        )


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
