"""Whether the data and the libraries are there, and how the libraries are brought in.

torchvision's wheel is built for another torch: its operators do not load. Nothing here calls them, but importing it
wants them declared.
"""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import warnings
from pathlib import Path

import torch

from bench.oracle_speed.cases import data_folder

__all__ = ["BOXES", "WEIGHTS", "import_yolov5", "missing"]

BOXES, WEIGHTS = "coco256_boxes.npz", "yolov5n_2class_fp16.safetensors"
_KEPT: list[torch.library.Library] = []


def missing() -> str | None:
    """What is not there, and what to do, in one line."""
    for name in (BOXES, WEIGHTS):
        if not (data_folder() / name).is_file():
            return f"no {data_folder() / name}: PAGCP_DATA must name the folder of the data"
    try:
        import_yolov5()
    except ImportError as error:
        return f"{error}: `make yolov5` runs this in an environment of its own (bench/yolov5/requirements.txt)"
    return None


def import_yolov5() -> Path:
    """The folder of the package `yolov5`, imported. ImportError names what is not there."""
    _declare_operators()
    os.environ.setdefault("YOLOv5_AUTOINSTALL", "false")
    for name in ("YOLOV5_CONFIG_DIR", "YOLO_CONFIG_DIR"):  # settings that they would write into the home folder
        os.environ.setdefault(name, tempfile.gettempdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("yolov5.models.yolo", "yolov5.utils.loss"):
            importlib.import_module(name)
        found = importlib.import_module("yolov5").__file__
    logging.getLogger("yolov5").setLevel(logging.WARNING)  # which tells every layer of every network
    assert found is not None
    return Path(found).parent


def _declare_operators() -> None:
    if _KEPT:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
