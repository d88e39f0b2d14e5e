"""The detector and its three losses, from the package `yolov5` 7.0.14, which is only called.

In eval mode the network gives (boxes [N, cells, 5 + classes], [what the loss takes of each scale]).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from bench.yolov5.environment import import_yolov5

__all__ = ["CLASSES", "SIZE", "TASKS", "build", "losses"]

CLASSES, SIZE = 80, 320
TASKS = {"box": "box", "objectness": "obj", "class": "cls"}
"""By task: the name of its gain among the package's hyperparameters."""


def build() -> nn.Module:
    """YOLOv5n v6 for COCO's classes, with random weights, in eval mode."""
    folder = import_yolov5()
    from yolov5.models.yolo import DetectionModel

    return DetectionModel(str(folder / "models" / "yolov5n.yaml"), nc=CLASSES).eval()


def losses(output: Any, boxes: Tensor) -> dict[str, Tensor]:
    """The losses of a batch, weighted by their gains. boxes: [M, 6], image, class, centre x, y, width, height.

    The package's terms have no gradient, only their sum has one: where that is asked for, it is called once for each
    term, with the others' gains at zero.
    """
    scales = output[1]
    if not any(scale.requires_grad for scale in scales):
        _, terms = _loss("")(scales, boxes)
        return dict(zip(TASKS, terms, strict=True))
    size = scales[0].shape[0]
    return {task: (_loss(task)(scales, boxes)[0] / size).reshape(()) for task in TASKS}


@cache
def _loss(only: str) -> Any:
    """The package's loss; the gains of all terms but `only`, if one is named, are zero."""
    folder = import_yolov5()
    from yolov5.utils.loss import ComputeLoss

    gains = yaml.safe_load((folder / "data" / "hyps" / "hyp.scratch-low.yaml").read_text(encoding="utf-8"))
    gains["obj"] *= (SIZE / 640) ** 2  # as the package's training scales it
    others = [gain for task, gain in TASKS.items() if only and task != only]
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):  # for any later call, and of no effect on it
        model: Any = build()  # of which it takes the anchors
        model.hyp = {**gains, **dict.fromkeys(others, 0.0)}
        return ComputeLoss(model)
