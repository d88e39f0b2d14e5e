"""The loss and the metric of a task by the names that a spec gives them: torch's, torchmetrics', or the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from passes.callables import call, resolve
from passes.metrics import MetricFactory, Whole, alone, torchmetrics_metric
from specs.diagnostics import DataError, nearest
from specs.spec import TaskSpec

__all__ = ["Loss", "named_loss", "named_metric"]

Loss = Callable[[Any, Any], Tensor]


def named_loss(spec: TaskSpec, folder: Path | None, where: str) -> tuple[str, Loss | None]:
    """The loss and its name. DataError D70x, D714 for what is not known, or takes no such argument."""
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


def named_metric(spec: TaskSpec, folder: Path | None, where: str) -> tuple[str, MetricFactory | None, bool]:
    """The metric, its name and whether higher is better. DataError D70x, D714, D721 to D723."""
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
                return alone(metric.to(device) if hasattr(metric, "to") else metric)
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
