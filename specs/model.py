"""What every section of a spec shares: strict, frozen, no unknown keys, and all problems at once.

pydantic runs cross-field checks only when the fields are right; here `conflicts` looks at what was given, so that a
wrong field never hides a contradiction. A problem travels as a pydantic error whose type is one of our codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from specs.diagnostics import nearest
from specs.node import KeyPath

__all__ = [
    "DEVICE",
    "NAME_OR_REFERENCE",
    "NOT_YET",
    "REFERENCE",
    "List",
    "Model",
    "PassOptions",
    "Problem",
    "Reference",
    "later",
    "relocated",
]

NOT_YET = "is not available in this version"
_T = TypeVar("_T")
List = Annotated[tuple[_T, ...], Strict(False)]
"""A YAML list, held as a tuple; its items stay strict."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
NAME_OR_REFERENCE = re.compile(rf"^{_NAME}((\.{_NAME})*:{_NAME}(\.{_NAME})*)?$")
REFERENCE = rf"^{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*$"
DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"
Reference = Annotated[str, Field(pattern=REFERENCE)]
"""module:callable"""


@dataclass(frozen=True)
class Problem:
    """A finding inside a section: code, path from the section, what is wrong ("must be ..."), hint."""

    code: str
    text: str
    hint: str = ""
    path: KeyPath = ()

    @property
    def error(self) -> PydanticCustomError:
        """To raise in a field's validator, whose place it takes."""
        return PydanticCustomError(self.code, "{problem}", {"problem": self.text, "hint": self.hint})

    def details(self, prefix: KeyPath = ()) -> InitErrorDetails:
        """For a ValidationError of several."""
        return InitErrorDetails(type=self.error, loc=prefix + self.path, input=None)


class Model(BaseModel):
    """A section of the spec. Subclasses say in `conflicts` what no single field can see."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """Problems between fields. `given` is what was written: nothing in it has been checked."""
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        found: list[InitErrorDetails] = []
        try:
            model = handler(given)
        except ValidationError as error:
            found = [cls._own(details) for details in error.errors(include_url=False)]
        if isinstance(given, Mapping):
            found += [problem.details() for problem in cls.conflicts(given)]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return model

    @classmethod
    def _own(cls, details: ErrorDetails) -> InitErrorDetails:
        """An unknown key is reported here, where the known ones are known."""
        if details["type"] not in ("extra_forbidden", "invalid_key") or len(details["loc"]) != 1:
            return _kept(details)
        key = details["loc"][0]
        return Problem("S103", "is not a known key", nearest(str(key), tuple(cls.model_fields))).details((key,))


class PassOptions(Model):
    """What the options of all passes have in common."""

    @classmethod
    def needs_tasks(cls, given: Mapping[str, Any]) -> bool:
        """Whether a pass with these options measures losses, so that the spec must give tasks and data."""
        return False


def relocated(error: ValidationError, prefix: KeyPath) -> ValidationError:
    """The same errors, their paths starting with `prefix`."""
    return ValidationError.from_exception_data(
        error.title, [_kept(details, prefix) for details in error.errors(include_url=False)]
    )


def _kept(details: ErrorDetails, prefix: KeyPath = ()) -> InitErrorDetails:
    loc = prefix + details["loc"]
    if details["type"].startswith("S1"):
        context = details["ctx"]
        return Problem(details["type"], context["problem"], context["hint"]).details(loc)
    return InitErrorDetails(type=details["type"], loc=loc, input=details["input"], ctx=details.get("ctx", {}))


def later(*names: str, use: str) -> BeforeValidator:
    """Refuses these values as not available, before the field says that it does not know them."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in names:
            raise Problem("S108", f": {value} {NOT_YET}", f"use {use}").error
        return value

    return BeforeValidator(check)
