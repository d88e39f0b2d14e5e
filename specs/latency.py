"""budgets.latency: what the pruned network may take at most, on which backend; and what was measured of it.

It is the one budget that is measured: its figures are never in plan.json, and differ a little from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from specs.model import Model, Problem
from specs.node import kind, shown
from specs.quantity import NOT_ABOVE_ALL, Quantity, json_schema

__all__ = ["CommandBackend", "Latency", "LatencyBudget", "LatencyFound", "TableBackend"]


def _most(value: Quantity) -> Quantity:
    if value.kind not in ("percent", "seconds"):
        hint = "write the unit: 8ms" if value.kind == "absolute" and value.unit == "" else ""
        raise Problem("S109", f"must be a share or a time such as 60% or 8ms, got {value}", hint).error
    if value.value <= 0 or (value.kind == "percent" and value.value > 100):
        most = " and at most 100%" if value.kind == "percent" else ""
        raise Problem("S104", f"must be above 0{most}, got {value}").error
    return value


class CommandBackend(Model):
    """A command that measures an ONNX file: on another machine, say."""

    command: str = Field(
        pattern=r"\{onnx\}", description="prints milliseconds; {onnx} stands for the file; run from the spec's folder"
    )


class TableBackend(Model):
    """Times that were measured elsewhere, layer by layer."""

    table: str = Field(
        pattern=r"\.csv$", description="columns layer, inputs, outputs, ms: each layer at a grid of widths"
    )


_NAMES = ("onnxruntime", "torch")


def _backend(value: Any) -> Any:
    """Said here, as a choice of types would say its complaint once for each."""
    if isinstance(value, (CommandBackend, TableBackend)) or value in _NAMES:
        return value
    if isinstance(value, Mapping):
        choices: dict[str, type[Model]] = {"command": CommandBackend, "table": TableBackend}
        (key,) = value if len(value) == 1 else ("",)
        if key in choices:
            return choices[key].model_validate(value)
    told = shown(value) if isinstance(value, str) else kind(value)
    hint = "onnxruntime, torch, {command: ./bench.sh {onnx}} or {table: file.csv}"
    raise Problem("S107", f"must be a backend, got {told}", hint).error


Most = Annotated[Quantity, AfterValidator(_most), WithJsonSchema(json_schema(("percent", "seconds")) | NOT_ABOVE_ALL)]
Backend = Annotated[
    Literal["onnxruntime", "torch"] | CommandBackend | TableBackend,
    BeforeValidator(_backend),
]


class LatencyBudget(Model):
    """What one run of the pruned network may take at most, as measured."""

    at_most: Most = Field(description="of one run: a share of the original's, 60%, or a time, 8ms")
    backend: Backend = Field(default="onnxruntime", description="what measures it")
    batch: int = Field(default=1, ge=1, le=65536, description="samples in a run")
    threads: int = Field(default=1, ge=1, le=1024, description="threads of the backend")

    @property
    def name(self) -> str:
        """What measures, in words."""
        if isinstance(self.backend, CommandBackend):
            return self.backend.command
        return self.backend.table if isinstance(self.backend, TableBackend) else self.backend

    def load(self, ms: float, ratio: float) -> float:
        """What is measured over what is allowed: met at 1 and below."""
        share = self.at_most.kind == "percent"
        return ratio / (self.at_most.base / 100) if share else ms / (1e3 * self.at_most.base)


def _short(value: Any) -> Any:
    """60% is short for {at_most: 60%}."""
    return {"at_most": value} if isinstance(value, (str, int, float, Quantity)) else value


Latency = Annotated[
    LatencyBudget | None,
    BeforeValidator(_short),
]


@dataclass(frozen=True)
class LatencyFound:
    """Milliseconds of a run of the original and of the pruned network, medians; their ratio, measured in turns.

    `low` and `high`: the quartiles of the ratio; `load`: measured over allowed.
    """

    backend: str
    batch: int
    threads: int
    at_most: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    load: float

    @property
    def met(self) -> bool:
        """Whether it is within what the budget allows."""
        return self.load <= 1

    @property
    def told(self) -> str:
        """One line: after and before, the ratio and its spread."""
        ratios = f"{self.ratio:.1%} ({self.low:.1%} to {self.high:.1%})"
        return f"{self.after:.4g} ms of {self.before:.4g} ms, {ratios}, at most {self.at_most}"

    def to_dict(self) -> dict[str, Any]:
        """The data of evidence.json."""
        return {**asdict(self), "met": self.met}

    @staticmethod
    def read(data: Mapping[str, Any]) -> LatencyFound:
        """What `to_dict` wrote. TypeError for anything else."""
        return LatencyFound(**{key: value for key, value in data.items() if key != "met"})
