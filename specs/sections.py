"""The sections of a spec. Frozen; attribute names are the keys of the YAML; what needs no data or torch is checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from specs.latency import Latency
from specs.library_names import unknown_loss, unknown_metric
from specs.model import NAME_OR_REFERENCE, List, Model, Problem, Reference
from specs.node import kind, shown
from specs.quantity import NOT_ABOVE_ALL, Kind, Quantity, json_schema

if TYPE_CHECKING:
    from specs.plan import Costs

__all__ = ["Budgets", "CalibrationSpec", "DataSpec", "Guarantee", "InputSpec", "ModelSpec", "TaskSpec"]

DType = Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
Args = dict[str, Any]
Unknown = Callable[[str], "tuple[str, str] | None"]


def _has(given: Mapping[str, Any], key: str) -> bool:
    return given.get(key) is not None


class InputSpec(Model):
    """One positional input of the network."""

    shape: Annotated[List[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(description="batch first")
    dtype: DType = Field(default="float32", description="element type")


def _input(value: Any) -> Any:
    """[1, 3, 32, 32] is short for {shape: [1, 3, 32, 32]}."""
    if isinstance(value, (list, tuple)):
        return {"shape": value}
    if isinstance(value, (Mapping, InputSpec)):
        return value
    raise Problem("S105", f"must be a shape such as [1, 3, 32, 32], got {kind(value)}").error


def _inputs(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and all(isinstance(size, int) for size in value):
        hint = f"write [[{', '.join(map(str, value))}]]: one shape per positional input"
        raise Problem("S105", "must be a list of shapes, got one shape", hint).error
    return value


class ModelSpec(Model):
    """Where the trained network comes from."""

    factory: Reference | None = Field(default=None, description="module:callable that returns the nn.Module")
    args: Args = Field(default_factory=dict, description="keyword arguments of the factory")
    weights: Annotated[str, Field(pattern=r"\.(safetensors|pt)$")] | None = Field(
        default=None, description="trained tensors: .safetensors, or .pt with tensors alone"
    )
    program: Annotated[str, Field(pattern=r"\.pt2$")] | None = Field(
        default=None, description="a torch.export program, from a trusted source, in place of factory and weights"
    )
    inputs: Annotated[List[Annotated[InputSpec, BeforeValidator(_input)]], BeforeValidator(_inputs)] = Field(
        default=(), description="one shape per positional input, batch first; {shape, dtype} for other dtypes"
    )
    adapter: Reference | None = Field(default=None, description="module:callable that wraps the network")
    protect: List[str] = Field(default=(), description="globs of layers that are never cut")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """A factory or a program, and what belongs to it."""
        if _has(given, "program"):
            for key in ("factory", "args", "weights"):
                if given.get(key):
                    yield Problem("S110", "cannot be given together with model.program", "keep one of them", (key,))
        elif not _has(given, "factory"):
            yield Problem("S110", "needs factory or program", "factory: module:callable returns the network")
        if not given.get("inputs"):
            yield Problem("S106", "is missing", "one shape per input, such as [[1, 3, 32, 32]]", ("inputs",))


class CalibrationSpec(Model):
    """What the search measures losses on."""

    samples: int | None = Field(default=None, ge=1, description="how many calibration samples to use; all where unset")


class DataSpec(Model):
    """Where the data comes from."""

    factory: Reference = Field(description="module:callable that returns train, calibration, validation[, test]")
    args: Args = Field(default_factory=dict, description="keyword arguments of the factory")
    batch_size: int = Field(default=32, ge=1, description="samples in a batch")
    workers: int = Field(default=0, ge=0, le=1024, description="processes that load data")
    calibration: CalibrationSpec = Field(default=CalibrationSpec(), description="what the search measures losses on")
    collate: Reference | None = Field(default=None, description="module:callable that makes a batch of samples")


def _metric_value(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith(("%", "pp")):
        hint = "write 0.9 for 90% of a metric from 0 to 1; a share of the original's value is max_drop: 10%"
        raise Problem("S109", f"must be a value in the metric's unit, got {value}", hint).error
    return value


def _drop(value: Quantity) -> Quantity:
    if value.kind not in ("percent", "points", "absolute"):
        raise Problem("S109", f"must be a drop such as 1%, 1pp or 0.5, got {value}").error
    if value.value < 0 or (value.kind != "absolute" and value.value > 100):
        most = "" if value.kind == "absolute" else f" and at most 100{value.unit}"
        raise Problem("S104", f"must be at least 0{most}, got {value}").error
    return value


Drop = Annotated[Quantity, AfterValidator(_drop), WithJsonSchema(json_schema(("percent", "points", "absolute")))]
MetricValue = Annotated[float | None, BeforeValidator(_metric_value)]


class Guarantee(Model):
    """What a task's metric must not fall short of: exactly one of max_drop, at_least, at_most."""

    max_drop: Drop | None = Field(
        default=None, description="1% of the original's value, 1pp (0.01) of a 0..1 metric, or 0.5 in the metric's unit"
    )
    at_least: MetricValue = Field(default=None, description="least value allowed, in the metric's unit")
    at_most: MetricValue = Field(default=None, description="largest value allowed, in the metric's unit")
    confidence: float | None = Field(
        default=None, gt=0.5, lt=1, description="0.95: not the measured value must keep the promise, but its bound"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """Exactly one bound."""
        bounds = [key for key in given if key in ("max_drop", "at_least", "at_most") and _has(given, key)]
        if not bounds:
            yield Problem("S110", "needs one of max_drop, at_least, at_most", "max_drop: 1pp allows one point less")
        for key in bounds[1:]:
            yield Problem("S110", f"cannot be given together with {bounds[0]}", "keep one of them", (key,))

    def allowed(self, dense: float, higher_is_better: bool) -> float:
        """The worst value allowed, for a metric that is `dense` before pruning."""
        if self.max_drop is None:
            bound = self.at_least if self.at_least is not None else self.at_most
            assert bound is not None
            return bound
        drop = self.max_drop.base
        if self.max_drop.kind == "percent":
            drop *= abs(dense) / 100
        elif self.max_drop.kind == "points":
            drop /= 100
        return dense - drop if higher_is_better else dense + drop

    def met(self, dense: float, pruned: float, higher_is_better: bool) -> bool:
        """Whether `pruned` keeps the guarantee; NaN never does. What rounding makes is not held against it."""
        return self.room(dense, pruned, higher_is_better) >= -self.slack(dense, higher_is_better)

    def room(self, dense: float, pruned: float, higher_is_better: bool) -> float:
        """How far `pruned` stays from the worst value allowed, in the metric's unit; negative beyond it."""
        bound = self.allowed(dense, higher_is_better)
        is_floor = higher_is_better if self.max_drop is not None else self.at_least is not None
        return 0.0 if pruned == bound else pruned - bound if is_floor else bound - pruned

    def slack(self, dense: float, higher_is_better: bool) -> float:
        """The rounding error that is not held against a value."""
        bound = self.allowed(dense, higher_is_better)
        # torchmetrics counts in single precision: 77 of 100 is 0.7699999809, and 3 points below 80 of 100
        return max(1e-9, 2.0**-22 * abs(bound)) if math.isfinite(bound) else 0.0


def _loss(value: Any) -> Any:
    return _callable_with_arguments(value, unknown_loss)


def _metric(value: Any) -> Any:
    return _callable_with_arguments(value, unknown_metric)


def _callable_with_arguments(value: Any, unknown: Unknown) -> Any:
    """A name that is not `unknown`, module:callable, or a mapping of a name and keyword arguments."""
    if value is None:
        return value
    name = value.get("name") if isinstance(value, Mapping) else value
    if name is None:
        raise Problem("S106", "has no name", "write {name: ..., <argument>: ...}").error
    if not isinstance(name, str):
        raise Problem("S105", f"must be a name, module:callable or {{name, arguments}}, got {kind(name)}").error
    if not NAME_OR_REFERENCE.fullmatch(name):
        raise Problem("S118", f"must be a name or module:callable, got {shown(name)}").error
    if ":" not in name and (wrong := unknown(name)) is not None:
        raise Problem("S107", *wrong).error
    return value


_NAME = {"type": "string", "pattern": NAME_OR_REFERENCE.pattern}
_CALLABLE = WithJsonSchema(
    {"anyOf": [_NAME, {"type": "object", "properties": {"name": _NAME}, "required": ["name"]}, {"type": "null"}]}
)
Loss = Annotated[str | Args | None, BeforeValidator(_loss), _CALLABLE]
Metric = Annotated[str | Args | None, BeforeValidator(_metric), _CALLABLE]


def _selection(value: Any) -> Any:
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
        return value
    raise Problem("S105", f"must be a key, an index or a dotted path, got {kind(value)}").error


def _missing(value: Any) -> Any:
    """YAML's own .nan is meant as well."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if value is None or value == "nan" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Problem("S105", f"must be nan or an integer, got {shown(value)}").error


Selection = Annotated[str | int | None, BeforeValidator(_selection)]


class TaskSpec(Model):
    """One thing that the network has to stay good at."""

    name: str = Field(min_length=1, description="what reports call it; unique")
    output: Selection = Field(
        default=None, description="key, index or dotted path into the model's output; all where unset"
    )
    target: Selection = Field(
        default=None, description="key, index or dotted path into the data's target; all where unset"
    )
    missing: Annotated[Literal["nan"] | int | None, BeforeValidator(_missing)] = Field(
        default=None, description="the target of a sample that has no label: nan, or an integer such as -1"
    )
    loss: Loss = Field(default=None, description="torch.nn.functional name, {name, arguments}, or module:callable")
    weight: float = Field(default=1.0, ge=0, description="of the loss in fine-tuning and in sums over tasks")
    metric: Metric = Field(default=None, description="{name, arguments} of a torchmetrics class, or module:callable")
    higher_is_better: bool | None = Field(default=None, description="taken from torchmetrics where it says so")
    guarantee: Guarantee | None = Field(default=None, description="what the metric must not fall short of")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """A guarantee is about a metric, and a bound on the side where the metric gets worse."""
        guarantee = given.get("guarantee")
        if guarantee is not None and not _has(given, "metric"):
            hint = "a guarantee is about a metric: metric: {name: MulticlassAccuracy, num_classes: 10}"
            yield Problem("S106", "is missing", hint, ("metric",))
        wrong = {True: "at_most", False: "at_least"}
        higher = given.get("higher_is_better")
        if isinstance(guarantee, Mapping) and isinstance(higher, bool) and _has(guarantee, wrong[higher]):
            text = f"cannot bound a metric with higher_is_better: {shown(higher)}"
            hint = f"write {wrong[not higher]}"
            yield Problem("S110", text, hint, ("guarantee", wrong[higher]))


def _budget(value: Quantity, kinds: Sequence[Kind], example: str) -> Quantity:
    if value.kind not in kinds:
        plain = value.kind == "absolute" and value.unit == ""
        hint = "write the unit: 20MB" if plain else ""
        raise Problem("S109", f"must be a share or an amount such as {example}, got {value}", hint).error
    if value.kind == "percent":
        if value.value > 100:
            hint = "budgets are upper bounds on what is kept; write 60% to keep 60%"
            raise Problem("S104", f"must be below 100%, got {value}", hint).error
        if value.value <= 0:
            raise Problem("S104", f"must be above 0%, got {value}").error
    elif value.limit(0) < 1:
        share = f"write {value.value * 100:g}% to keep {value.value * 100:g}%" if 0 < value.value < 1 else ""
        raise Problem("S104", f"must be at least 1, got {value}", share).error
    return value


def _count(value: Quantity) -> Quantity:
    return _budget(value, ("percent", "absolute"), "40% or 1.2G")


def _size(value: Quantity) -> Quantity:
    return _budget(value, ("percent", "bytes"), "40% or 20MB")


Count = Annotated[
    Quantity, AfterValidator(_count), WithJsonSchema(json_schema(("percent", "absolute")) | NOT_ABOVE_ALL)
]
Size = Annotated[Quantity, AfterValidator(_size), WithJsonSchema(json_schema(("percent", "bytes")) | NOT_ABOVE_ALL)]


class Budgets(Model):
    """What is kept at most: shares of the original, or amounts."""

    macs: Count | None = Field(default=None, description="MACs of one sample: 40%, 1.2G")
    params: Count | None = Field(default=None, description="parameters: 40%, 5M")
    bytes: Size | None = Field(default=None, description="parameters and buffers: 40%, 20MB")
    latency: Latency = Field(default=None, description="of a run, measured: 60%, 8ms, {at_most, backend, ...}")

    def limits(self, before: Costs) -> dict[str, int]:
        """Upper bounds for a network that costs `before`; only those that the spec gives, but for the latency."""
        return {
            name: budget.limit(getattr(before, name))
            for name in ("macs", "params", "bytes")
            if (budget := getattr(self, name)) is not None
        }
