"""The passes as a person reads of them: name, what it does, and each option with what it takes, its default, its use.

Everything is read from the options' models (specs/options.py), which is what specs are checked against.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from specs.model import PassOptions
from specs.options import OPTIONS, SelectorOptions

__all__ = ["OptionEntry", "PassEntry", "catalogue"]

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}


@dataclass(frozen=True)
class OptionEntry:
    """One option. `takes`: in words; `default`: as YAML, "unset" for none; `shared`: all that cut have it."""

    name: str
    takes: str
    default: str
    description: str
    shared: bool


@dataclass(frozen=True)
class PassEntry:
    """One pass; its own options come before those that all passes that cut share."""

    name: str
    does: str
    options: tuple[OptionEntry, ...]


def catalogue() -> tuple[PassEntry, ...]:
    """All passes that a spec can name."""
    return tuple(PassEntry(name, _does(model), tuple(_options(model))) for name, model in OPTIONS.items())


def _does(model: type[PassOptions]) -> str:
    return " ".join((model.__doc__ or "").split())


def _options(model: type[PassOptions]) -> Iterator[OptionEntry]:
    schema = model.model_json_schema()
    parts, required = schema.get("$defs", {}), schema.get("required", ())
    common = SelectorOptions.model_fields if issubclass(model, SelectorOptions) else {}
    rows = [
        OptionEntry(
            name=name,
            takes="passes" if name == "passes" else _takes(about, parts),
            default="needed" if name in required else _default(about.get("default")),
            description=about.get("description", ""),
            # the pass that says something of its own about an option has it for its own
            shared=name in common and common[name].description == about.get("description"),
        )
        for name, about in schema["properties"].items()
    ]
    yield from sorted(rows, key=lambda row: row.shared)


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, list) and len(value) > 4:
        return f"{value[0]}, {value[1]} ... {value[-1]}"
    return value if isinstance(value, str) else json.dumps(value)


def _takes(about: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """What values a JSON schema allows, in words."""
    if "$ref" in about:
        return _takes(parts[about["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in about:
        choices = [_takes(choice, parts) for choice in about["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(choices))
    if "const" in about:
        return str(about["const"])
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if about.get("type") == "array":
        return f"list of: {_takes(about.get('items', {}), parts)}"
    if about.get("type") == "object":
        return _mapping(about, parts)
    if "pattern" in about:
        return "module:callable"
    bounds = [f"{word} {_number(about[key])}" for key, word in _BOUNDS.items() if key in about]
    return " ".join([_KINDS.get(about.get("type", ""), "a value"), ", ".join(bounds)]).strip()


def _mapping(about: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    values = about.get("additionalProperties")
    if isinstance(values, Mapping):
        return f"{{name: {_takes(values, parts)}}}"
    return "{" + ", ".join(about.get("properties", {})) + "}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"
