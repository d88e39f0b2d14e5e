"""What an emitted model.onnx does in onnxruntime, on one thread: its precision, and its time against another's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch

from bench.yolov5.coco import Images, collate
from bench.yolov5.detector import SIZE
from bench.yolov5.precision import corners, detections, mean_precision

__all__ = ["milliseconds", "precision"]

REPEATS = 60


def precision(file: Path, images: Images) -> float:
    """mAP at an IoU of 0.5."""
    session, found = _session(file), []
    for start in range(0, len(images), 16):
        pixels, _ = collate([images[i] for i in range(start, min(start + 16, len(images)))])
        found += [detections(torch.from_numpy(cells)) for cells in _run(session, pixels.numpy())]
    wanted = [torch.cat((boxes[:, :1], SIZE * corners(boxes[:, 1:])), 1) for boxes in images.boxes]
    return mean_precision(found, wanted)


def milliseconds(files: Mapping[str, Path]) -> dict[str, float]:
    """By name: the median time of one image. The files take turns, so that what else runs slows all alike."""
    sessions = {name: _session(file) for name, file in files.items()}
    image = np.zeros((1, 3, SIZE, SIZE), np.float32)
    taken: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(REPEATS):
        for name, session in sessions.items():
            began = time.perf_counter()
            _run(session, image)
            taken[name].append(time.perf_counter() - began)
    return {name: 1000 * median(each[5:]) for name, each in taken.items()}


def _session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _run(session: Any, pixels: np.ndarray) -> np.ndarray:
    """The boxes of all cells, in pixels."""
    return session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: pixels})[0]
