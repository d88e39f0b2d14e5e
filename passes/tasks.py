"""Tasks: what the network is for. Each has a loss that the search may not let rise, a metric and a guarantee.

A loss is the mean over its batch. Several tasks may share one joint callable (output, target) -> {task: loss}.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from passes.callables import call, resolve
from passes.metrics import MetricFactory, Whole, torchmetrics_metric
from specs.diagnostics import DataError, nearest
from specs.spec import Guarantee, Spec, TaskSpec

__all__ = ["Key", "Loss", "Task", "build_tasks", "select", "task_losses", "weighted"]

Key = str | int | None
Loss = Callable[[Any, Any], Tensor]
Joint = Callable[[Any, Any], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Task:
    """One task. `joint`, where given, replaces `loss`; `distill` is how its outputs are imitated."""

    name: str
    output: Key = None
    target: Key = None
    loss: Loss | None = None
    joint: Joint | None = None
    weight: float = 1.0
    metric_name: str = ""
    metric: MetricFactory | None = None
    higher_is_better: bool = True
    guarantee: Guarantee | None = None
    distill: Literal["kl", "mse"] = "mse"


def select(tree: Any, key: Key, what: str = "output") -> Any:
    """The part of a nested output or target: None is the whole, else an index, a key, or a dotted path.

    DataError D711 names what there is instead.
    """
    if key is None:
        return tree
    if isinstance(tree, Mapping) and key in tree:
        return tree[key]
    for part in str(key).split("."):
        tree = _child(tree, part, f"{what} {key!r}")
    return tree


def _child(tree: Any, part: str, what: str) -> Any:
    if isinstance(tree, Mapping):
        by_text = {str(key): key for key in tree}
        if part in by_text:
            return tree[by_text[part]]
        raise DataError.one("D711", f"{what}: there is no key {part!r}", hint=nearest(part, list(by_text)))
    if isinstance(tree, (list, tuple)):
        if part.lstrip("-").isdigit() and -len(tree) <= int(part) < len(tree):
            return tree[int(part)]
        if hasattr(tree, part) and part in getattr(tree, "_fields", ()):
            return getattr(tree, part)
        raise DataError.one("D711", f"{what}: {part!r} is not an index into {len(tree)} values")
    raise DataError.one("D711", f"{what}: {part!r} is looked up in a {type(tree).__name__}")


def task_losses(tasks: Sequence[Task], output: Any, target: Any) -> dict[str, Tensor]:
    """Each task's loss on one batch, a scalar tensor each, in the order of the tasks.

    DataError D712 for a loss that raises, D713 for one that is no scalar.
    """
    joint: dict[Joint, Mapping[str, Tensor]] = {}
    found = {}
    for task in tasks:
        if task.joint is not None:
            if task.joint not in joint:
                joint[task.joint] = _called(task.joint, "losses", output, target)
            value: Any = select(joint[task.joint], task.name, "the value of losses:")
        elif task.loss is not None:
            output_part, target_part = select(output, task.output), select(target, task.target, "target")
            value = _called(task.loss, f"the loss of {task.name!r}", output_part, target_part)
        else:
            raise DataError.one("D712", f"task {task.name!r} has no loss")
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise DataError.one("D713", f"the loss of {task.name!r} must be one number, got {got}")
        found[task.name] = value.reshape(())
    return found


def weighted(tasks: Sequence[Task], losses: Mapping[str, Any]) -> Any:
    """The sum over tasks of weight * loss; of tensors or of floats."""
    return sum(task.weight * losses[task.name] for task in tasks)


def _called(function: Callable[[Any, Any], Any], what: str, output: Any, target: Any) -> Any:
    try:
        return function(output, target)
    except Exception as error:
        shapes = f"output {_shape(output)}, target {_shape(target)}"
        told = (str(error).strip().splitlines() or [""])[0]
        message = f"{what} raised {type(error).__name__}: {told} ({shapes})"
        raise DataError.one("D712", message) from error


def _shape(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')}{list(tree.shape)}"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_shape(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        return "(" + ", ".join(_shape(value) for value in tree) + ")"
    return type(tree).__name__


def build_tasks(spec: Spec) -> tuple[Task, ...]:
    """The spec's tasks with their losses and metrics resolved. DataError for what does not resolve."""
    folder = None if spec.path is None else spec.path.parent
    joint = None if spec.losses is None else resolve(spec.losses, folder, spec.where("losses"))
    return tuple(_task(task, joint, folder, spec.where(f"tasks[{i}]")) for i, task in enumerate(spec.tasks))


def _task(spec: TaskSpec, joint: Joint | None, folder: Path | None, where: str) -> Task:
    loss_name, loss = _loss(spec, folder, where)
    if loss is None and joint is None:
        raise DataError.one("D714", f"task {spec.name!r} has no loss, and the spec has no joint `losses`", where)
    metric_name, metric, higher = _metric(spec, folder, where)
    return Task(
        name=spec.name,
        output=spec.output,
        target=spec.target,
        loss=loss,
        joint=joint if loss is None else None,
        weight=spec.weight,
        metric_name=metric_name,
        metric=metric,
        higher_is_better=higher,
        guarantee=spec.guarantee,
        distill="kl" if loss_name == "cross_entropy" else "mse",
    )


def _loss(spec: TaskSpec, folder: Path | None, where: str) -> tuple[str, Loss | None]:
    if spec.loss is None:
        return "", None
    name, arguments = _named(spec.loss)
    if ":" in name:
        function = resolve(name, folder, where)
    else:
        known = [key for key in dir(functional) if not key.startswith("_")]
        if name not in known or not callable(getattr(functional, name)):
            hint = nearest(name, [key for key in known if "loss" in key or "entropy" in key])
            raise DataError.one("D714", f"torch.nn.functional has no loss {name!r}", where, hint)
        function = getattr(functional, name)
    _refuse_unknown_arguments(function, name, arguments, where)
    # YAML has no tensors: a list of numbers (class weights) is meant as one
    fixed = {
        key: torch.tensor(value, dtype=torch.float32) if isinstance(value, (list, tuple)) else value
        for key, value in arguments.items()
    }

    def loss(output: Any, target: Any) -> Tensor:
        here = {
            key: value.to(output.device) if isinstance(value, Tensor) and isinstance(output, Tensor) else value
            for key, value in fixed.items()
        }
        return function(output, target, **here)  # type: ignore[no-any-return]

    return name, loss


def _metric(spec: TaskSpec, folder: Path | None, where: str) -> tuple[str, MetricFactory | None, bool]:
    if spec.metric is None:
        return "", None, spec.higher_is_better is not False
    name, arguments = _named(spec.metric)
    factory: MetricFactory
    higher: bool | None = None
    if ":" in name:
        function = resolve(name, folder, where)
        _refuse_unknown_arguments(function, name, arguments, where)
        if inspect.isclass(function):
            higher = getattr(function, "higher_is_better", None)

            def factory(device: torch.device) -> Any:
                metric = call(function, name, where, **arguments)
                return metric.to(device) if hasattr(metric, "to") else metric
        else:

            def factory(device: torch.device) -> Any:
                return Whole(lambda output, target: function(output, target, **arguments))
    else:
        factory, higher = torchmetrics_metric(name, arguments, where)
    higher = spec.higher_is_better if spec.higher_is_better is not None else higher
    if higher is None:
        message = f"metric {name} does not say whether higher is better"
        raise DataError.one("D723", message, where, "add higher_is_better: true or false to the task")
    return name, factory, higher


def _named(value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """`name` or `{name: ..., **arguments}`."""
    if isinstance(value, str):
        return value, {}
    arguments = dict(value)
    return str(arguments.pop("name")), arguments


def _refuse_unknown_arguments(
    function: Callable[..., Any], name: str, arguments: Mapping[str, Any], where: str
) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins without a signature: they will speak for themselves
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise DataError.one("D714", f"{name} takes no {key!r}", where, nearest(key, list(parameters)))
