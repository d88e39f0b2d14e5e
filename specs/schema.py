"""spec.schema.json, so that editors complete and check the YAML: `python -m specs.schema` writes it.

It accepts whatever the loader accepts, and refuses what is decidable without files and between-field rules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from specs.exporting import OnnxOptions
from specs.options import OPTIONS
from specs.spec import PassSpec, Spec

__all__ = ["SCHEMA_FILE", "schema", "schema_text"]

SCHEMA_FILE = Path(__file__).with_name("spec.schema.json")
_EXTENDS = {"type": "string", "description": "a spec that this one is laid over: mappings merge, lists replace"}


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a spec."""
    models = [(model, "validation") for model in (Spec, *OPTIONS.values(), OnnxOptions)]
    _, joint = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    parts: dict[str, Any] = _environment(_untitled(joint["$defs"]))
    parts["PassSpec"] = _pass_schema()
    parts["InputSpec"] = {"anyOf": [parts["InputSpec"]["properties"]["shape"], parts["InputSpec"]]}
    options = parts["PagcpOptions"]["properties"]
    options["grid"] = _or_spaced(options["grid"])
    budgets = parts["Budgets"]["properties"]["latency"]
    short = {k: v for k, v in parts["LatencyBudget"]["properties"]["at_most"].items() if k != "description"}
    budgets["anyOf"] = [short, *budgets["anyOf"]]
    parts["Env"] = {"type": "string", "pattern": r"\$\{env:[^{}]+\}", "description": "from the environment"}
    top = parts.pop("Spec")
    version = top["properties"].pop("version")
    top["properties"] = {"version": version, "extends": _EXTENDS, **top["properties"]}
    # what is required may stand in the spec that this one extends
    data = {"data": {"required": parts["DataSpec"].pop("required")}}
    top["anyOf"] = [{"required": ["extends"]}, {"required": top.pop("required"), "properties": data}]
    top["$defs"] = {name: parts[name] for name in sorted(parts)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pagcp spec, version 1", **top}


def schema_text() -> str:
    """The text of spec.schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


def _pass_schema() -> dict[str, Any]:
    """A bare name, or one name with its options; null stands for none."""
    bare = [
        name for name, options in OPTIONS.items() if not any(f.is_required() for f in options.model_fields.values())
    ]
    steps = [
        {
            "type": "object",
            "description": (options.__doc__ or "").strip(),
            "properties": {name: {"anyOf": [{"$ref": f"#/$defs/{options.__name__}"}, {"type": "null"}]}},
            "required": [name],
            "additionalProperties": False,
        }
        for name, options in OPTIONS.items()
    ]
    return {"description": PassSpec.__doc__, "anyOf": [{"enum": bare}, *steps]}


def _or_spaced(grid: dict[str, Any]) -> dict[str, Any]:
    spaced = {
        "type": "object",
        "properties": {"start": {"type": "number"}, "stop": {"type": "number"}, "steps": {"type": "integer"}},
        "required": ["start", "stop", "steps"],
        "additionalProperties": False,
    }
    about = {key: grid.pop(key) for key in ("default", "description")}
    # where a validator stands between, pydantic writes a string's limits
    for ours, theirs in (("minLength", "minItems"), ("maxLength", "maxItems")):
        if ours in grid:
            grid[theirs] = grid.pop(ours)
    return {"anyOf": [grid, spaced], **about}


def _untitled(part: Any) -> Any:
    """Without the titles that pydantic makes of field names."""
    if isinstance(part, dict):
        return {key: _untitled(value) for key, value in part.items() if key != "title"}
    return [_untitled(item) for item in part] if isinstance(part, list) else part


def _environment(part: Any) -> Any:
    """With ${env:NAME} wherever not every string is allowed already."""
    if isinstance(part, list):
        return [_environment(item) for item in part]
    if not isinstance(part, dict):
        return part
    scalar = part.get("type") in ("integer", "number", "boolean") or {"pattern", "enum", "const"} & part.keys()
    if not scalar:
        return _spliced({key: value if key == "not" else _environment(value) for key, value in part.items()})
    about = {key: part[key] for key in ("default", "description") if key in part}
    return {"anyOf": [{k: v for k, v in part.items() if k not in about}, {"$ref": "#/$defs/Env"}], **about}


def _spliced(part: dict[str, Any]) -> dict[str, Any]:
    """With choices of choices as one list of choices, each once."""
    choices: list[Any] = []
    for choice in part.get("anyOf", ()):
        for inner in choice["anyOf"] if choice.keys() == {"anyOf"} else (choice,):
            if inner not in choices:
                choices.append(inner)
    return {**part, "anyOf": choices} if choices else part


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
