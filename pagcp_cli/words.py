"""A spec read back in words, so that a misunderstanding shows before the hours are spent. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from specs.quantity import Quantity
from specs.spec import Guarantee, PassSpec, Spec, TaskSpec

__all__ = ["spec_in_words"]

_COSTS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "latency": "latency"}


def spec_in_words(spec: Spec) -> list[str]:
    """One line per fact, in the order of the spec: a label, two spaces or more, the sentence."""
    facts = [*_model(spec), *_data(spec), *(("task", _task(t)) for t in spec.tasks), *_budgets(spec)]
    facts += [(f"pass {i}", _pass(p)) for i, p in enumerate(spec.passes, 1)]
    facts.append(("export", ", ".join(str(e) for e in spec.export) or "nothing but the plan"))
    width = max(len(label) for label, _ in facts)
    return [f"{label:<{width}}  {told}" for label, told in facts]


def _model(spec: Spec) -> Iterator[tuple[str, str]]:
    model = spec.model
    made = f"{model.factory}({_arguments(model.args)})" if model.factory else f"program {model.program}"
    weights = f", weights {model.weights}" if model.weights else ""
    yield "model", f"{made}{weights}, on {spec.device}, seed {spec.seed}"
    shapes = (f"[N, {', '.join(map(str, i.shape[1:]))}] {i.dtype}" for i in model.inputs)
    yield "inputs", ", ".join(shapes)
    if model.protect:
        yield "protect", f"never cuts {', '.join(model.protect)}"


def _data(spec: Spec) -> Iterator[tuple[str, str]]:
    if spec.data is None:
        return
    samples = spec.data.calibration.samples
    searched = "all calibration samples" if samples is None else f"{samples} calibration samples"
    made = f"{spec.data.factory}({_arguments(spec.data.args)})"
    yield "data", f"{made}, batches of {spec.data.batch_size}; the search sees {searched}"


def _task(task: TaskSpec) -> str:
    metric = task.metric if isinstance(task.metric, str) else (task.metric or {}).get("name", "no metric")
    told = f"{task.name}: {metric}"
    return told if task.guarantee is None else f"{told} {_guarantee(task.guarantee)}"


def _guarantee(guarantee: Guarantee) -> str:
    parts = []
    if guarantee.max_drop is not None:
        parts.append(f"may get worse by at most {_drop(guarantee.max_drop)}")
    if guarantee.at_least is not None:
        parts.append(f"stays at least {guarantee.at_least:g}")
    if guarantee.at_most is not None:
        parts.append(f"stays at most {guarantee.at_most:g}")
    return " and ".join(parts)


def _drop(drop: Quantity) -> str:
    if drop.kind == "percent":
        return f"{drop.value:g}% of its value before pruning"
    if drop.kind == "points":
        return f"{drop.value:g} percentage point{'' if drop.value == 1 else 's'}"
    return f"{drop.value:g}, in its own unit"


def _budgets(spec: Spec) -> Iterator[tuple[str, str]]:
    for name, told in _COSTS.items():
        limit = getattr(spec.budgets, name)
        if limit is not None:
            yield "budget", _limit(limit, told)


def _limit(limit: Quantity, what: str) -> str:
    if limit.kind == "percent":
        return f"keeps at most {limit} of the {what}, that is, cuts at least {100 - limit.value:g}%"
    return f"keeps at most {limit} {what}" if limit.kind == "absolute" else f"at most {limit}"


def _pass(step: PassSpec) -> str:
    chosen = step.options.model_dump(mode="json", exclude_unset=True)
    return f"{step.name}({_arguments(chosen)})" if chosen else f"{step.name} with its defaults"


def _arguments(arguments: Any) -> str:
    items: Iterable[tuple[str, Any]] = dict(arguments).items()
    return ", ".join(f"{key}={value}" for key, value in items)
