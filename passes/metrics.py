"""Metrics of a task: a torchmetrics class by name, or the user's own (output, target) -> number.

torchmetrics is slow to import and is imported only when a spec names one of its classes.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from specs.diagnostics import DataError, nearest

__all__ = ["Metric", "MetricFactory", "Whole", "alone", "torchmetrics_metric"]

# the domains first: what the top level repeats of them it may warn about
_MODULES = (
    "torchmetrics.classification",
    "torchmetrics.regression",
    "torchmetrics.image",
    "torchmetrics.segmentation",
    "torchmetrics.detection",
    "torchmetrics.retrieval",
    "torchmetrics.audio",
    "torchmetrics.text",
    "torchmetrics.clustering",
    "torchmetrics.nominal",
    "torchmetrics",
)


class Metric(Protocol):
    """Fed batch by batch, asked once."""

    def update(self, output: Any, target: Any) -> object: ...

    def compute(self) -> Any: ...


MetricFactory = Callable[[torch.device], Metric]


@dataclass
class Whole:
    """A metric of the whole split: a function over all outputs and targets, concatenated on the CPU."""

    function: Callable[[Any, Any], Any]
    outputs: list[Any] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)

    def update(self, output: Any, target: Any) -> None:
        """Remember one batch."""
        self.outputs.append(output)
        self.targets.append(target)

    def compute(self) -> Any:
        """The function's value."""
        return self.function(_joined(self.outputs), _joined(self.targets))


def torchmetrics_metric(name: str, arguments: Mapping[str, Any], where: str = "") -> tuple[MetricFactory, bool | None]:
    """The factory of a torchmetrics class, and whether higher is better where the class says so.

    DataError D721 for an unknown name, D722 for arguments that the class refuses.
    """
    found = _class(name, where)

    def make(device: torch.device) -> Metric:
        try:
            metric = found(**arguments)
        except Exception as error:
            message = f"torchmetrics refuses {name}({_written(arguments)}): {error}"
            raise DataError.one("D722", message, where) from error
        return alone(metric.to(device))  # type: ignore[no-any-return]

    # some classes are factories: only the object that they make knows the direction
    made = make(torch.device("cpu"))
    higher = getattr(made, "higher_is_better", None)
    return make, higher if isinstance(higher, bool) else None


def alone(metric: Any) -> Any:
    """The metric, which from now on is that of what it was fed here: torchmetrics would ask the other processes too."""
    parts: Any = metric.modules() if isinstance(metric, torch.nn.Module) else ()
    for part in parts:
        if hasattr(part, "distributed_available_fn"):
            part.distributed_available_fn = _never
    return metric


def _never() -> bool:
    return False


def _class(name: str, where: str) -> Any:
    known: list[str] = []
    for module_name in _MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # a domain whose own dependencies are not installed
            continue
        found = getattr(module, name, None)
        if inspect.isclass(found):
            return found
        known += [key for key in getattr(module, "__all__", ()) if inspect.isclass(getattr(module, key, None))]
    hint = nearest(name, sorted(set(known))) or "write module:callable for a metric of your own"
    raise DataError.one("D721", f"torchmetrics has no metric {name!r}", where, hint)


def _written(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _joined(parts: list[Any]) -> Any:
    """Batches put together along their first axis, inside dicts, lists and tuples as well."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part.cpu() if part.ndim else part.cpu()[None] for part in parts])
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined([part[i] for part in parts]) for i in range(len(first)))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    return parts
