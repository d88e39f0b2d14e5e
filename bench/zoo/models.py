"""The list of the zoo: name, library, family, image size, and how to build each with random weights.

The image size is the smallest at which the network is not degenerate: some resolution is left at its end.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bench.zoo import names
from bench.zoo.cifar import cifar_resnet

__all__ = ["ENTRIES", "Entry", "build", "import_libraries"]


@dataclass(frozen=True)
class Entry:
    """One row. `heavy`: it takes gigabytes, so that nothing else runs beside it."""

    library: str
    model: str
    family: str
    size: int
    heavy: bool = False

    @property
    def name(self) -> str:
        return f"{self.library}/{self.model}"


def _entries() -> list[Entry]:
    found = [Entry("cifar", model, "resnet", 32) for model in ("resnet20", "resnet56")]
    for family, models in names.TORCHVISION.items():
        for model in models.split():
            size = names.TORCHVISION_SIZES.get(model, names.TORCHVISION_SIZES.get(family, 64))
            found.append(Entry("torchvision", model, family, size, model in names.HEAVY))
    for family, models in names.TIMM.items():
        for text in models.split():
            model, _, size = text.partition("@")
            found.append(Entry("timm", model, family, int(size or 64)))
    for architecture in names.SMP:
        for encoder in names.SMP_ENCODERS:
            size = names.SMP_SIZES.get(architecture, 64)
            found.append(Entry("smp", f"{architecture}-{encoder}", architecture.lower(), size))
    for text in names.PYTORCHCV:
        model, _, size = text.partition("@")
        found.append(Entry("pytorchcv", model, model.split("_")[0].rstrip("0123456789"), int(size or 64)))
    found += [Entry("ultralytics", model, model.split("-")[0].removesuffix("n"), 64) for model in names.ULTRALYTICS]
    return found


def build(entry: Entry) -> nn.Module:
    """The network with random weights, in eval mode. Its library is imported here."""
    import_libraries()
    return _BUILDERS[entry.library](entry.model, entry.size).eval()


def import_libraries() -> None:
    """Import all libraries that are there, before anything is measured."""
    _stub_operators()
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _stub_operators() -> None:
    """torchvision built for another torch lacks its native operators; no network here calls them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


_MODULES = ("torchvision", "timm", "segmentation_models_pytorch", "pytorchcv.model_provider", "ultralytics.nn.tasks")
_KEPT: list[torch.library.Library] = []


def _torchvision(model: str, size: int) -> nn.Module:
    import torchvision

    options: dict[str, object] = {"weights": None}
    if model in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if model.startswith(("fcn", "deeplab", "lraspp")):
        options["weights_backbone"] = None
    if model.startswith("vit_"):
        options["image_size"] = size
    return torchvision.models.get_model(model, **options)


def _timm(model: str, size: int) -> nn.Module:
    import timm

    try:
        return timm.create_model(model, img_size=size)
    except TypeError:  # networks that take any size have no such option
        return timm.create_model(model)


def _smp(model: str, size: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    architecture, _, encoder = model.partition("-")
    return getattr(smp, architecture)(encoder, encoder_weights=None, classes=5)


def _pytorchcv(model: str, size: int) -> nn.Module:
    from pytorchcv.model_provider import get_model

    return get_model(model, pretrained=False)


def _ultralytics(model: str, size: int) -> nn.Module:
    from ultralytics.nn import tasks

    kinds = {"seg": "SegmentationModel", "pose": "PoseModel", "cls": "ClassificationModel"}
    kind = kinds.get(model.rpartition("-")[2], "DetectionModel")
    return getattr(tasks, kind)(f"{model}.yaml", verbose=False)


def _cifar(model: str, size: int) -> nn.Module:
    return cifar_resnet(int(model.removeprefix("resnet")))


_BUILDERS: dict[str, Callable[[str, int], nn.Module]] = {
    "cifar": _cifar,
    "torchvision": _torchvision,
    "timm": _timm,
    "smp": _smp,
    "pytorchcv": _pytorchcv,
    "ultralytics": _ultralytics,
}

ENTRIES = {entry.name: entry for entry in _entries()}
