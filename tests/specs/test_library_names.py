"""Losses and metrics by name: told without torch, and the lists are those of the libraries."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable

import pytest
from torch.nn import functional

from passes.metrics import _MODULES
from specs.library_names import LOSSES, METRICS, _text, unknown_loss, unknown_metric
from tests.specs.conftest import MODEL, PASSES


def test_every_loss_of_torch_is_known() -> None:
    names = {n for n in dir(functional) if not n.startswith("_") and ("loss" in n or "entropy" in n or n == "kl_div")}
    assert set(LOSSES) == {name for name in names if callable(getattr(functional, name))}
    assert list(LOSSES) == sorted(LOSSES)


def test_every_metric_of_torchmetrics_is_known() -> None:
    found = set()
    for name in _MODULES:
        module = importlib.import_module(name)
        found |= {key for key in getattr(module, "__all__", ()) if inspect.isclass(getattr(module, key, None))}
    assert found - {"Metric", "MetricCollection", "MetricTracker"} <= set(METRICS)
    text = _text("torchmetrics", "**/__init__.py")  # some ask for packages that are not here
    assert [name for name in METRICS if f'"{name}"' not in text] == []
    assert list(METRICS) == sorted(METRICS)


def test_what_another_version_has_is_looked_up() -> None:
    assert unknown_loss("relu") is None
    assert unknown_loss("gelu") is None  # built in
    assert unknown_metric("MetricCollection") is None


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("loss: cross_entrpy", "loss names no loss of torch.nn.functional: cross_entrpy\n  hint: did you mean cross"),
        ("loss: MSELoss", "loss names no loss of torch.nn.functional: MSELoss\n  hint: did you mean mse_loss"),
        (
            "loss: {name: focal, g: 2}",
            "loss names no loss of torch.nn.functional: focal\n  hint: write module:callable",
        ),
        ("metric: multiclass_accuracy", "metric names no metric of torchmetrics: multiclass_accuracy\n  hint: did you"),
        ("metric: {name: mIoU}", "metric names no metric of torchmetrics: mIoU\n  hint: did you mean MeanIoU"),
    ],
)
def test_what_is_misspelt(refused: Callable[..., str], task: str, told: str) -> None:
    text = refused(MODEL + PASSES + f"tasks: [{{name: a, {task}}}]\n")
    assert f"error[S107]: tasks[0].{told}" in text


def test_validate_does_not_import_torch_for_it() -> None:
    code = "import sys, specs.library_names as n; n.unknown_loss('x'), n.unknown_metric('x'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
