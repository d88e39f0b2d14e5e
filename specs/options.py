"""The options of every pass, with bounds and defaults: the one place that documents them. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)

from specs.diagnostics import nearest
from specs.model import NOT_YET, List, Model, PassOptions, Problem, later, relocated
from specs.node import kind, shown
from specs.recovery import FinetuneOptions, RefitOptions

__all__ = [
    "CRITERIA",
    "LATER_PASSES",
    "MEASURED_CRITERIA",
    "OPTIONS",
    "Combine",
    "Criterion",
    "FinetuneOptions",
    "Measure",
    "PagcpOptions",
    "PassOptions",
    "PassSpec",
    "RefitOptions",
    "RepeatOptions",
    "ScopeOptions",
    "SelectorOptions",
    "UniformOptions",
    "pass_of",
]

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
MAX_GRID = 200
Measure = Literal["loss", "metric"]
Criterion = Literal[
    "l1",
    "l2",
    "task_taylor",
    "tp_l1",
    "tp_l2",
    "tp_bn_scale",
    "tp_lamp",
    "tp_fpgm",
    "tp_taylor",
    "tp_hessian",
    "tp_random",
]
CRITERIA: tuple[str, ...] = get_args(Criterion)
Combine = Literal["max", "sum"]
MEASURED_CRITERIA: frozenset[str] = frozenset({"task_taylor", "tp_taylor", "tp_hessian"})
"""Those that look at the tasks' losses on the calibration data."""
_LATER_CRITERIA = ("trace_ratio",)
_Criterion = Annotated[Criterion, later(*_LATER_CRITERIA, use="l1")]
_CRITERION = "how a unit's importance is measured; the least important go first"
_COMPENSATE = "what readers of removed channels get in their place: nothing, or their calibration mean"
_COMBINE = "task_taylor: what a unit is worth to several tasks is the largest of its shares in them, or their sum"


class ScopeOptions(Model):
    """Limits for the groups whose name matches a glob."""

    max_ratio: float | None = Field(
        default=None, ge=0, le=1, description="largest share of a group's units to cut; 0 cuts none"
    )
    round_to: int | None = Field(default=None, ge=1, le=1024, description="kept widths are multiples of this")


class SelectorOptions(PassOptions):
    """Common to the passes that choose what to cut."""

    round_to: int = Field(default=1, ge=1, le=1024, description="kept widths are multiples of this")
    min_channels: int = Field(default=1, ge=1, description="least number of channels to keep on every axis")
    max_ratio: float = Field(default=0.95, gt=0, le=1, description="largest share of a group's units to cut")
    scopes: dict[str, ScopeOptions] = Field(
        default_factory=dict, description="limits for the groups whose name matches a glob"
    )
    compensate: Literal["none", "mean"] = Field(default="none", description=_COMPENSATE)

    @classmethod
    def needs_tasks(cls, given: Mapping[str, Any]) -> bool:
        """For criteria that measure losses, and for calibration means."""
        return given.get("criterion") in MEASURED_CRITERIA or given.get("compensate") == "mean"

    @property
    def deepest(self) -> float:
        """The largest ratio that the pass tries."""
        return 1.0


class UniformOptions(SelectorOptions):
    """Every group by the same ratio: the baseline."""

    ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of every group's units to cut; unset: the smallest that meets the budgets",
    )
    criterion: _Criterion = Field(default="l1", description=_CRITERION)
    combine: Combine = Field(default="max", description=_COMBINE)

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """The ratio must be allowed by max_ratio."""
        ratio, most = given.get("ratio"), given.get("max_ratio", 0.95)
        if _number(ratio) and _number(most) and 0 < most < ratio < 1:
            yield Problem(
                "S104", f"must be at most max_ratio, which is {shown(most)}, got {shown(ratio)}", "", ("ratio",)
            )


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _grid(value: Any) -> Any:
    """The evenly spaced ratios of {start, stop, steps}; anything else is left to the field."""
    if not isinstance(value, Mapping):
        return value
    start, stop, steps = (value.get(key) for key in ("start", "stop", "steps"))
    if len(value) != 3 or not (_number(start) and _number(stop) and isinstance(steps, int)):
        raise Problem("S105", "must be a list of ratios, or {start, stop, steps} with numbers").error
    if not 2 <= steps <= MAX_GRID:
        raise Problem("S104", f"must have 2 to {MAX_GRID} steps, got {shown(steps)}").error
    return [round(start + (stop - start) * step / (steps - 1), 10) for step in range(steps)]


def _ascending(ratios: tuple[float, ...]) -> tuple[float, ...]:
    if any(high <= low for low, high in pairwise(ratios)):
        raise Problem("S104", "must ascend from the smallest ratio to the largest").error
    return ratios


def _floor(value: Any) -> Any:
    """A number, numbers by task, or nothing: said here, as a choice of types would say it once for each."""
    for number in value.values() if isinstance(value, Mapping) else () if value is None else (value,):
        if not _number(number):
            raise Problem("S105", f"must be a number, or numbers by task, got {shown(number)}").error
        if number <= 0:
            raise Problem("S104", f"must be above 0, got {shown(number)}").error
    return value


def _number_or_auto(above: float, most: float, kind: type[int] | type[float]) -> Callable[[Any], Any]:
    """Checks what is a number or auto: a choice of types would say each of its complaints."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value == "auto":
            return value
        if not _number(value) or (kind is int and not isinstance(value, int)):
            raise Problem(
                "S105", f"must be {'a whole' if kind is int else 'a'} number or auto, got {shown(value)}"
            ).error
        if not above < value <= most:
            least = f"at least {above + 1:g}" if kind is int else f"above {above:g}"
            raise Problem("S104", f"must be {least} and at most {most:g}, or auto, got {shown(value)}").error
        return value

    return check


class PagcpOptions(SelectorOptions):
    """Group by group, as deep as every task tolerates (arXiv 2303.11923)."""

    tolerance: float = Field(
        default=0.06, gt=0, le=10, description="d0: relative rise of a task's loss that the first group may cause"
    )
    tolerances: dict[str, Annotated[float, Field(gt=0, le=10)]] = Field(
        default_factory=dict, description="by task: its tolerance, where it is not `tolerance`"
    )
    floor: Annotated[
        Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] | None, BeforeValidator(_floor)
    ] = Field(
        default=None,
        description="rises are measured over no less than this loss: one number, or by task",
    )
    total: Annotated[
        Annotated[float, Field(gt=1, le=1e6)] | Literal["auto"], BeforeValidator(_number_or_auto(1, 1e6, float))
    ] = Field(
        default="auto",
        description="T: factor on a task's loss if all groups use up their tolerance; auto: the least for the budgets",
    )
    top: float = Field(
        default=1.0, gt=0, le=1, description="P: share of the groups to cut, those that cost the least loss per MAC"
    )
    criterion: _Criterion = Field(default="task_taylor", description=f"{_CRITERION}; search: published starts from l1")
    combine: Combine = Field(default="max", description=_COMBINE)
    compensate: Literal["none", "mean"] = Field(
        default="mean", description=f"{_COMPENSATE}; search: published starts from none"
    )
    grid: Annotated[
        List[Annotated[float, Field(gt=0, lt=1)]],
        AfterValidator(_ascending),
        BeforeValidator(_grid),
        Field(min_length=1, max_length=MAX_GRID),
    ] = Field(
        default=GRID, description="ratios to try, ascending, over a group's original width; or {start, stop, steps}"
    )
    order: Literal["macs", "latency"] = Field(
        default="macs",
        description="what a step must save to be cheap: macs, or what the budgets ask for; latency: milliseconds",
    )
    probe: float = Field(
        default=0.3, gt=0, lt=1, description="ratio at which a group's savings are measured for the order"
    )
    search: Literal["marginal", "certified", "published"] = Field(
        default="marginal",
        description="marginal: the cheapest step next; published: group by group, as the paper does; certified: that, "
        "with few evaluations",
    )
    moves: Annotated[
        Annotated[int, Field(ge=0, le=10_000)] | Literal["auto"], BeforeValidator(_number_or_auto(-1, 10_000, int))
    ] = Field(
        default="auto",
        description="search: marginal: in about how many cuts the budgets are met; 0: by single steps of the grid; "
        "auto: 12, or a quarter more than there are groups",
    )
    swaps: int = Field(
        default=0, ge=0, le=10_000, description="search: marginal: how many swaps of steps to try at the end"
    )
    quirks: bool = Field(
        default=False, description="search: published decides as the authors' code does, quirks and all"
    )
    measure: Measure = Field(
        default="loss",
        description="what of a task a cut may make worse by its tolerance: its loss; metric: the value of its metric",
    )
    confidence: float | None = Field(
        default=None,
        gt=0.5,
        lt=1,
        description="evaluations stop once this sure, 0.999; what is accepted is measured again on all samples",
    )
    channels_last: bool = Field(
        default=False, description="networks are measured channels innermost in memory, which convolutions may like"
    )
    cache_mb: int = Field(
        default=1024,
        ge=0,
        le=1_000_000,
        description="MiB of memory for activations before the layers that a candidate changes; 0 keeps none",
    )
    stop: Literal["budget", "tolerance"] = Field(
        default="budget", description="budget: stop once the budgets are met; tolerance: go on as far as tasks tolerate"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        """The published procedure is that of the paper in what it leaves out, too."""
        if isinstance(given, Mapping) and given.get("search") == "published":
            return {"criterion": "l1", "compensate": "none", **given}
        return given

    @property
    def deepest(self) -> float:
        """The last of the grid."""
        return self.grid[-1]

    def bounded(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Losses that rises are measured over: none below its floor."""
        floors = self.floors(losses)
        return {task: max(loss, floors.get(task, loss)) for task, loss in losses.items()}

    def floors(self, tasks: Iterable[str]) -> dict[str, float]:
        """By task, for those that have one: its floor."""
        if isinstance(self.floor, dict):
            return dict(self.floor)
        return {} if self.floor is None else dict.fromkeys(tasks, self.floor)

    @classmethod
    def needs_tasks(cls, given: Mapping[str, Any]) -> bool:
        """Always: the search measures every task's loss."""
        return True

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """T > 1 + d0, and options that another search has."""
        tolerance, total = given.get("tolerance", 0.06), given.get("total", "auto")
        if _number(tolerance) and _number(total) and tolerance > 0 and 1 < total <= 1 + tolerance:
            limit = f"1 + tolerance, which is {1 + tolerance:g}"
            hint = "total is what all groups together may do to a loss, tolerance what the first one may"
            yield Problem("S104", f"must be above {limit}, got {shown(total)}", hint, ("total",))
        if given.get("stop") == "tolerance" and total == "auto":
            yield Problem("S106", "is missing", "stop: tolerance goes as far as a total allows", ("total",))
        search = given.get("search", "marginal")
        for key, searches in _ONLY.items():
            off = cls.model_fields[key].default
            if given.get(key, off) != off and search not in searches:
                text = f"is an option of search: {' and '.join(searches)}, not of {shown(search)}"
                yield Problem("S110", text, "leave it out", (key,))
        for key in ("tolerances", "floor"):
            if given.get("quirks") is True and given.get(key):
                yield Problem("S110", "cannot be given together with quirks", "keep one of them", (key,))
        if given.get("measure") == "metric":
            yield from _without_losses(given)
        if given.get("confidence") is not None and given.get("top", 1.0) != 1.0:
            yield Problem("S110", "cannot be given together with confidence", "keep one of them", ("top",))


def _without_losses(given: Mapping[str, Any]) -> Iterable[Problem]:
    """Options that need losses, of samples or in units of their own."""
    whys = {
        "confidence": "a metric is one number of all samples: there are none to compare one by one",
        "floor": "a metric's change is a share of its value before any cut",
        "quirks": "the authors' code measures losses",
    }
    for key, why in whys.items():
        if given.get(key):
            yield Problem("S110", "cannot be given together with measure: metric", why, (key,))


_ONLY = {
    "confidence": ("marginal", "certified"),
    "top": ("published", "certified"),
    "quirks": ("published",),
    "swaps": ("marginal",),
}
"""Options of some searches alone."""


class PassSpec(Model):
    """One step of the pipeline: `- name: {options}`, or `- name`."""

    name: str
    options: SerializeAsAny[PassOptions]

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.name: self.options.model_dump(mode="json")}


def pass_of(value: Any) -> Any:
    """The pass of a YAML item. Errors lie below the pass's name, as they do in the file."""
    if isinstance(value, PassSpec):
        return value
    if not isinstance(value, (str, Mapping)):
        raise Problem("S105", f"must be a pass such as pagcp: {{...}}, got {kind(value)}").error
    if isinstance(value, Mapping) and len(value) != 1:
        hint = "put a dash before each pass, and indent its options below its name"
        raise Problem("S105", f"must hold one pass, got {len(value)} keys", hint).error
    name, options = (value, None) if isinstance(value, str) else next(iter(value.items()))
    if name in LATER_PASSES:
        raise Problem("S108", f": {name} {NOT_YET}", f"use {', '.join(OPTIONS)}").error
    if name not in OPTIONS:
        text = f"must be one of {', '.join(OPTIONS)}, got {shown(name)}"
        raise Problem("S107", text, nearest(str(name), tuple(OPTIONS))).error
    try:
        return PassSpec(name=name, options=OPTIONS[name].model_validate({} if options is None else options))
    except ValidationError as error:
        raise relocated(error, () if isinstance(value, str) else (name,)) from None


class RepeatOptions(PassOptions):
    """Rounds of the same passes: cut a little, train, cut again. Ratios are over the original widths in every round."""

    passes: Annotated[List[Annotated[PassSpec, BeforeValidator(pass_of)]], Field(min_length=1)] = Field(
        description="the steps of a round, in order"
    )
    times: int | None = Field(default=None, ge=1, le=1000, description="how many rounds; with until: how many at most")
    until: Literal["budgets"] | None = Field(
        default=None, description="budgets: end with the round that meets them, or with one that cuts nothing"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """An end."""
        if given.get("times") is None and given.get("until") is None:
            yield Problem("S110", "needs times or until", "until: budgets goes on until they are met")


OPTIONS: dict[str, type[PassOptions]] = {
    "uniform": UniformOptions,
    "pagcp": PagcpOptions,
    "refit": RefitOptions,
    "finetune": FinetuneOptions,
    "repeat": RepeatOptions,
}
LATER_PASSES = ("catro", "cacp")
