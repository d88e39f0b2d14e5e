"""256 images of COCO with their boxes, longest side 320, in the middle of a grey square."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.oracle_speed.cases import data_folder
from bench.yolov5.detector import SIZE
from bench.yolov5.environment import BOXES

__all__ = ["Images", "collate", "datasets", "images"]

GREY = 114
HELD_OUT = 32
"""Of the 128 training images: for calibration, which must be new to the network."""


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [N, 3, SIZE, SIZE]; boxes: by image [k, 5], class, centre x, y, width, height in shares of SIZE.

    `flips`: half of the images, anew each time, are mirrored.
    """

    pixels: Tensor
    boxes: Sequence[Tensor]
    flips: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, boxes = self.pixels[index].float() / 255, self.boxes[index]
        return mirrored(image, boxes) if self.flips and bool(torch.rand(()) < 0.5) else (image, boxes)


def mirrored(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Left is right."""
    boxes = boxes.clone()
    boxes[:, 1] = 1 - boxes[:, 1]
    return image.flip(-1), boxes


def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images [N, 3, SIZE, SIZE], and all boxes [M, 6], the number of its image before each."""
    numbered = [torch.cat((torch.full((len(boxes), 1), float(i)), boxes), 1) for i, (_, boxes) in enumerate(samples)]
    return torch.stack([image for image, _ in samples]), torch.cat(numbered)


def datasets() -> dict[str, Images]:
    """Images to train on, others of COCO's training images to calibrate, and the validation images."""
    train = images("train")
    moving = Images(train.pixels, train.boxes, flips=True)
    return {"train": moving, "calibration": images("calibration"), "validation": images("val")}


def images(part: str) -> Images:
    """96 images to train on ("train"), 32 to calibrate ("calibration"), 128 to validate ("val")."""
    if part == "val":
        return _stored(part)
    whole = _stored("train")
    chosen = slice(HELD_OUT) if part == "calibration" else slice(HELD_OUT, None)
    return Images(whole.pixels[chosen], whole.boxes[chosen])


@cache
def _stored(part: str) -> Images:
    """All 128 images of that part of the file, train or val."""
    with np.load(data_folder() / BOXES) as stored:
        data: dict[str, Any] = {key: stored[f"{part}_{key}"] for key in ("jpeg", "offsets", "boxes")}
    pixels, found = [], []
    for number, (start, end) in enumerate(zip(data["offsets"], data["offsets"][1:], strict=False)):
        square, scale, shift = squared(data["jpeg"][start:end].tobytes())
        boxes = torch.from_numpy(data["boxes"][data["boxes"][:, 0] == number, 1:])
        pixels.append(square)
        found.append(torch.cat((boxes[:, :1], boxes[:, 1:3] * scale + shift, boxes[:, 3:] * scale), 1))
    return Images(torch.stack(pixels), found)


def squared(jpeg: bytes) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 [3, SIZE, SIZE]; x and y in shares of the image times scale [2] plus shift [2] are those of the square."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as opened:
        image = opened.convert("RGB")
    factor = SIZE / max(image.size)
    size = tuple(max(1, round(side * factor)) for side in image.size)
    left, top = ((SIZE - side) // 2 for side in size)
    canvas = Image.new("RGB", (SIZE, SIZE), (GREY, GREY, GREY))
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), (left, top))
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()
    return pixels, torch.tensor(size) / SIZE, torch.tensor((left, top)) / SIZE
