"""A spec in words: what was understood, so that a misunderstanding shows before hours are spent."""

from __future__ import annotations

from typing import Any

from specs.exporting import ExportItem, format_of, onnx_options
from specs.latency import LatencyBudget
from specs.options import (
    FinetuneOptions,
    PagcpOptions,
    RefitOptions,
    RepeatOptions,
    SelectorOptions,
    UniformOptions,
)
from specs.plan import Costs
from specs.quantity import Quantity
from specs.spec import Guarantee, PassSpec, Spec, TaskSpec

__all__ = ["describe"]

_COSTS = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}


def describe(spec: Spec, before: Costs | None = None) -> list[str]:
    """One line per fact, in the order of the spec. `before`: what the network costs, where that is known."""
    lines = [_model(spec)]
    if spec.model.protect:
        lines.append(f"never cuts {', '.join(spec.model.protect)}")
    if spec.data is not None:
        samples = spec.data.calibration.samples
        searched = "all calibration samples" if samples is None else f"{samples} calibration samples"
        lines.append(f"data: {spec.data.factory}, batches of {spec.data.batch_size}; losses are measured on {searched}")
    lines += [f"task {task.name}: {_task(task)}{_missing(task)}" for task in spec.tasks]
    for name, word in _COSTS.items():
        budget = getattr(spec.budgets, name)
        if budget is not None:
            lines.append(_budget(budget, word, None if before is None else getattr(before, name)))
    if spec.budgets.latency is not None:
        lines.append(_latency(spec.budgets.latency))
    lines += [f"pass {number}, {step.name}: {_pass(step)}" for number, step in enumerate(spec.passes, 1)]
    if spec.on_miss == "back_off":
        lines.append("on a miss on validation: gives cuts back and runs the passes that train again, until all hold")
    written = ", ".join(map(_export, spec.export))
    lines.append(f"writes {written}" if written else "writes nothing but the plan and its evidence")
    return lines


def _model(spec: Spec) -> str:
    model = spec.model
    shapes = ", ".join("x".join(map(str, given.shape)) for given in model.inputs)
    arguments = ", ".join(f"{key}={value}" for key, value in model.args.items())
    source = f"{model.factory}({arguments})" if model.factory else f"program {model.program}"
    weights = f", weights {model.weights}" if model.weights else ""
    return f"model: {source}{weights}, input {shapes}, device {spec.device}, seed {spec.seed}"


def _export(item: ExportItem) -> str:
    options = onnx_options(item)
    opset = f"opset {options.opset}" if options.opset is not None else ""
    axes = f"{' and '.join(options.dynamic) or 'no axis'} free" if options.dynamic is not None else ""
    told = ", ".join(filter(None, (opset, axes)))
    return f"{format_of(item)} ({told})" if told else format_of(item)


def _task(task: TaskSpec) -> str:
    metric: Any = task.metric["name"] if isinstance(task.metric, dict) else task.metric
    if task.guarantee is None:
        return f"{metric} is reported, nothing is guaranteed" if metric else "nothing is guaranteed"
    sure = task.guarantee.confidence
    return f"{metric} {_guarantee(task.guarantee)}" + (f", with {sure * 100:g}% confidence" if sure else "")


def _missing(task: TaskSpec) -> str:
    return "" if task.missing is None else f"; no label where the target is {task.missing}"


def _guarantee(guarantee: Guarantee) -> str:
    if guarantee.at_least is not None:
        return f"stays at {guarantee.at_least:g} or above"
    if guarantee.at_most is not None:
        return f"stays at {guarantee.at_most:g} or below"
    drop = guarantee.max_drop
    assert drop is not None
    if drop.kind == "percent":
        return f"gets worse by at most {drop} of its original value"
    if drop.kind == "points":
        points = f"{drop.value:g} percentage point{'' if drop.value == 1 else 's'}"
        return f"gets worse by at most {drop.base / 100:g} ({points})"
    return f"gets worse by at most {drop}, in its own unit"


def _budget(budget: Quantity, word: str, before: int | None) -> str:
    if budget.kind == "percent":
        original = f"the {word}" if before is None else f"{_short(before)} {word}"
        return f"keeps at most {budget} of {original}, that is cuts at least {100 - budget.value:g}%"
    amount = str(budget) if budget.kind == "bytes" else f"{budget} {word}"
    if before is None:
        return f"keeps at most {amount}"
    cut = max(0.0, 100 - 100 * budget.limit(before) / max(1, before))
    return f"keeps at most {amount} of {_short(before)}, that is cuts at least {cut:.3g}%"


def _latency(budget: LatencyBudget) -> str:
    share = budget.at_most.kind == "percent"
    most = f"{budget.at_most} of the original's time" if share else str(budget.at_most)
    threads = f"{budget.threads} thread{'' if budget.threads == 1 else 's'}"
    return f"a run takes at most {most}, as {budget.name} says at batch {budget.batch} with {threads}"


def _short(number: int) -> str:
    for unit, size in ((" G", 10**9), (" M", 10**6), (" k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _pass(step: PassSpec) -> str:
    options = step.options
    if isinstance(options, PagcpOptions):
        told = f"{_search(options)}; least important by {options.criterion} first"
    elif isinstance(options, UniformOptions):
        share = (
            "by the smallest ratio that meets the budgets" if options.ratio is None else f"by {options.ratio * 100:g}%"
        )
        told = f"cuts every group {share}; least important by {options.criterion} first"
    elif isinstance(options, FinetuneOptions):
        told = _training(options)
    elif isinstance(options, RefitOptions):
        told = _repair(options)
    elif isinstance(options, RepeatOptions):
        ends = [f"at most {options.times} times" if options.times else "", "until the budgets are met"]
        end = ends[0].removeprefix("at most ") if options.until is None else ", ".join(filter(None, reversed(ends)))
        rounds = "; then ".join(f"{inner.name} {_pass(inner)}" for inner in options.passes)
        told = f"repeats {end}: {rounds}"
    else:
        told = ", ".join(f"{key} {value}" for key, value in options)
    return told + (_limits(options) if isinstance(options, SelectorOptions) else "")


def _repair(options: RefitOptions) -> str:
    fitted = "readers of removed channels" if options.mode == "lstsq" else "the biases of readers of removed channels"
    parts = [f"fits {fitted} to the original network"]
    if options.batchnorm:
        parts.append("recalibrates batch normalisations")
    if options.heads:
        parts.append("fits the layers at the outputs")
    return f"{', then '.join(parts)}; layer by layer, as long as no task's calibration loss rises"


def _training(options: FinetuneOptions) -> str:
    if options.trainer is not None:
        return f"{options.trainer} trains the model of the factory, cut in place; kept if it is better on validation"
    told = f"trains for {options.epochs} epochs with {options.optimizer} at {options.lr:g}"
    if options.distill:
        told += f", with {options.distill:g} times the distance to the original"
    if options.balance == "margin":
        told += "; tasks count the more, the closer they are to their guarantee"
    if options.ema is not None:
        told += f"; keeps a moving average with decay {options.ema:g}"
    return told


def _search(options: PagcpOptions) -> str:
    until = "until the budgets are met" if options.stop == "budget" else "as far as the tasks tolerate"
    if options.search == "marginal":
        bound = "" if options.total == "auto" else f"; no task's loss above {options.total:g} times what it was"
        per = "MAC" if options.order == "macs" else "millisecond"
        return f"cuts next what costs the worst task least per {per}, {until}{bound}"
    first = f"the first may raise a task's loss by {options.tolerance * 100:g}%"
    total = "as far as the budgets need" if options.total == "auto" else f"to {options.total:g} times the loss"
    return f"cuts group by group {until}; {first}, all together {total}"


def _limits(options: SelectorOptions) -> str:
    parts = []
    if options.compensate == "mean":
        parts.append("readers of removed channels get their calibration mean")
    if options.round_to > 1:
        parts.append(f"widths are multiples of {options.round_to}")
    if options.min_channels > 1:
        parts.append(f"at least {options.min_channels} channels stay")
    if options.scopes:
        parts.append(f"limits for {', '.join(options.scopes)}")
    return "".join(f"; {part}" for part in parts)
