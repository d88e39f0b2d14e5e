"""A spec fully resolved, as data that loads to the same spec again and names no path of this machine.

${env:NAME} stays as it was written; of absolute paths the part below the spec's folder, or else the last name, stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from specs.node import Key, KeyPath
from specs.quantity import Quantity
from specs.sections import InputSpec
from specs.source import scalar

if TYPE_CHECKING:
    from specs.spec import Spec

__all__ = ["portable", "resolved", "yaml_text"]


def resolved(spec: Spec, path: Path | None, expanded: Iterable[tuple[KeyPath, str]]) -> dict[str, Any]:
    """The spec in YAML's types; `expanded` is what to write in place of values from the environment."""
    data = _plain(spec)
    for keys, text in expanded:
        _replace(data, keys, text)
    return {str(key): _portable_values(value, path) for key, value in data.items()}


def portable(text: str, path: Path | None = None) -> str:
    """The text, or if it is an absolute path what of it holds on other machines."""
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    if not (posix.is_absolute() or windows.is_absolute() or text.startswith("~/")) or len(text) < 2:
        return text
    folder = None if path is None else path.resolve().parent
    if folder is not None and Path(text).is_relative_to(folder):
        return Path(text).relative_to(folder).as_posix()
    return windows.name if windows.is_absolute() else posix.name


def yaml_text(data: dict[str, Any]) -> str:
    """YAML that this package reads back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, Quantity):
        return value.value if value.unit == "" else str(value)
    if isinstance(value, InputSpec) and value.dtype == "float32":
        return list(value.shape)
    if isinstance(value, BaseModel):
        fields = {key: _plain(field) for key, field in value if field is not None}
        return {fields["name"]: fields["options"]} if set(fields) == {"name", "options"} else fields
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _replace(data: Any, path: KeyPath, text: str) -> None:
    """Writes the text at that path, where the resolved data has it."""
    for key in path[:-1]:
        data = _child(data, key)
    if path and _child(data, path[-1]) is not None:
        data[path[-1]] = text


def _child(data: Any, key: Key) -> Any:
    if isinstance(data, dict):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return data[key]
    return None


def _portable_values(value: Any, path: Path | None) -> Any:
    if isinstance(value, str):
        return portable(value, path)
    if isinstance(value, list):
        return [_portable_values(item, path) for item in value]
    if isinstance(value, dict):
        return {key: _portable_values(item, path) for key, item in value.items()}
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 takes for a string and our schema does not, and writes floats so that both agree."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)
