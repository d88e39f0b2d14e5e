"""Mean average precision at an IoU of 0.5 of boxes that a detector gives, and the suppression of doubles before it.

Per class: detections by falling score; one is right where it covers a box of the image that no better one has taken.
AP is the area below the precision that is reached at that recall or a higher one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["average_precision", "corners", "detections", "iou", "mean_precision", "suppressed"]

LEAST_SCORE, MOST, DOUBLE, COVERED = 0.001, 300, 0.6, 0.5
"""Of a detection, of detections in an image, the IoU of doubles, and that of a box that is found."""
CANDIDATES = 3000
"""The best so many of an image are looked at."""


def corners(boxes: Tensor) -> Tensor:
    """[..., 4] of centre x, y, width, height as left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """[n, m] of boxes [n, 4] and [m, 4], as corners."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-9)


def suppressed(boxes: Tensor, scores: Tensor, least: float = DOUBLE) -> Tensor:
    """Indices of boxes [n, 4], best score first, without those whose IoU with a better one is above `least`."""
    order = scores.argsort(descending=True, stable=True)
    doubles = (iou(boxes[order], boxes[order]) > least).numpy()
    kept: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool).numpy()
    for i in range(len(order)):
        if not gone[i]:
            kept.append(i)
            gone |= doubles[i]
    return order[kept]


def detections(cells: Tensor) -> Tensor:
    """[n, 6] of one image's cells [k, 5 + classes]: corners, score and class; a cell may be of several classes."""
    scores = cells[:, 4:5] * cells[:, 5:]
    cell, kind = (scores > LEAST_SCORE).nonzero(as_tuple=True)
    score = scores[cell, kind]
    best = score.argsort(descending=True, stable=True)[:CANDIDATES]
    cell, kind, score = cell[best], kind[best], score[best]
    boxes = corners(cells[cell, :4])
    apart = boxes + kind[:, None] * (2 * float(boxes.abs().max()) + 1) if len(boxes) else boxes  # by class
    kept = suppressed(apart, score)[:MOST]
    return torch.cat((boxes[kept], score[kept, None], kind[kept, None].to(boxes.dtype)), 1)


def average_precision(right: Tensor, boxes: int) -> float:
    """Of a class with so many boxes: bool [n], whether a detection is right, by falling score."""
    if not len(right):
        return 0.0
    found = right.double().cumsum(0)
    precision = found / torch.arange(1, len(right) + 1)
    reached = precision.flip(0).cummax(0).values.flip(0)
    return float((reached * right).sum() / boxes)


def mean_precision(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The mean of AP over the classes that there are. found: [n, 6] an image; wanted: [k, 5], class and corners."""
    total = []
    for kind in torch.cat([boxes[:, 0] for boxes in wanted]).unique():
        truth = [boxes[boxes[:, 0] == kind, 1:] for boxes in wanted]
        rows = [(each[each[:, 5] == kind], boxes) for each, boxes in zip(found, truth, strict=True)]
        scores = torch.cat([each[:, 4] for each, _ in rows])
        right = torch.cat([_right(each[:, :4], boxes) for each, boxes in rows])
        order = scores.argsort(descending=True, stable=True)
        total.append(average_precision(right[order], sum(len(boxes) for boxes in truth)))
    return sum(total) / len(total)


def _right(found: Tensor, wanted: Tensor) -> Tensor:
    """bool [n]: which detections of an image and a class, best first, cover a box that is not taken yet."""
    right = torch.zeros(len(found), dtype=torch.bool)
    covers = iou(found, wanted)
    for i in range(len(found) if len(wanted) else 0):
        best = int(covers[i].argmax())
        if covers[i, best] >= COVERED:
            right[i] = True
            covers[:, best] = -1
    return right
