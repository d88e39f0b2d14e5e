"""What `inspect` and `init` look at: the network of a spec, or what module:callable returns, for inputs given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from specs.diagnostics import SpecError
from specs.model import REFERENCE
from specs.spec import InputSpec, ModelSpec, Spec, load_spec

__all__ = ["made_subject", "subject"]


def subject(name: str, inputs: Sequence[str], overrides: Sequence[str]) -> Spec:
    """The spec in the file `name`, or one made of module:callable and `inputs` such as "1x3x224x224" or "1x16:int64".

    A callable is called without arguments and looked up among what is installed, then in the working folder.
    Raises SpecError: what `load_spec` finds; S105, S106, S110, S116 when the options do not fit together.
    """
    if Path(name).is_file() or not re.fullmatch(REFERENCE, name):
        if inputs:
            raise SpecError.one("S110", "--input belongs to module:callable; a spec has model.inputs", name)
        return load_spec(name, overrides)
    if overrides:
        raise SpecError.one("S116", "--set belongs to a spec; module:callable has no keys", name)
    return made_subject(name, inputs)


def made_subject(name: str, inputs: Sequence[str], path: Path | None = None) -> Spec:
    """The spec of module:callable alone, as if it stood in the file `path`, whose folder its module may lie in.

    Raises SpecError: S105, S106 for inputs, S118 where `name` is no module:callable.
    """
    if not re.fullmatch(REFERENCE, name):
        raise SpecError.one("S118", f"must be of the form module:callable, got {name!r}")
    if not inputs:
        hint = "one shape per positional input, batch first: --input 1x3x224x224"
        raise SpecError.one("S106", "--input is missing", name, hint)
    model = ModelSpec(factory=name, inputs=tuple(_input(text) for text in inputs))
    spec = Spec.model_validate({"version": 1, "model": model, "passes": [{"uniform": {"ratio": 0.5}}]})
    spec._path = path
    return spec


def _input(text: str) -> InputSpec:
    shape, _, dtype = text.partition(":")
    try:
        return InputSpec.model_validate(
            {"shape": [int(size) for size in shape.split("x")], "dtype": dtype or "float32"}
        )
    except (ValueError, ValidationError) as error:
        told = f"--input must be a shape such as 1x3x224x224 or 1x16:int64, got {text}"
        raise SpecError.one("S105", told) from error
