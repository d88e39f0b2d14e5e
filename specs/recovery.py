"""The options of the passes that win back what cutting lost: refit and finetune. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from specs.model import PassOptions, Problem, Reference

__all__ = ["FinetuneOptions", "RefitOptions"]


class RefitOptions(PassOptions):
    """Repairs what is left in closed form; every change is kept only if no task's calibration loss rises by it."""

    mode: Literal["bias", "lstsq"] = Field(
        default="lstsq",
        description="lstsq: readers of removed channels are fitted by least squares to what they gave in the original "
        "network; bias: their biases alone",
    )
    batchnorm: bool = Field(default=True, description="recalibrate the statistics of batch normalisations")
    heads: bool = Field(
        default=True, description="fit the layers at the outputs to those of the original network by least squares"
    )
    positions: int = Field(
        default=20_000, ge=100, le=10_000_000, description="positions of feature maps that a layer is fitted to"
    )
    memory_mb: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="MiB of memory for a layer's equations; above, its bias alone is fitted",
    )
    cache_mb: int = Field(
        default=256,
        ge=0,
        le=1_000_000,
        description="MiB of memory for activations before the layers that change; 0 keeps none",
    )

    @classmethod
    def needs_tasks(cls, given: Mapping[str, Any]) -> bool:
        """Always: no task's loss may rise."""
        return True


class FinetuneOptions(PassOptions):
    """Trains the network on the weighted sum of the tasks' losses; keeps the epoch that is best on validation."""

    epochs: int = Field(default=5, ge=1, le=100_000, description="passes over the training images")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="adamw, or sgd with momentum 0.9")
    lr: float = Field(default=1e-3, gt=0, le=10, description="first learning rate; it falls to zero along a cosine")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="decay of weights, not of biases and norms")
    batch_size: int | None = Field(default=None, ge=1, description="images in a batch; data.batch_size where unset")
    distill: float = Field(default=0.0, ge=0, description="weight of the distance to the original network's outputs")
    balance: Literal["weights", "margin"] = Field(
        default="weights",
        description="weights: tasks count by their weight; margin: the more, the closer they are to their guarantee on "
        "validation",
    )
    clip: float | None = Field(default=None, gt=0, description="largest norm of all gradients together")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which is judged and kept, 0.999",
    )
    patience: int | None = Field(default=None, ge=1, description="stop after so many epochs without a better one")
    device: Literal["auto", "cpu", "cuda", "mps"] | None = Field(
        default=None, description="where it trains: auto, cpu, cuda or mps; the spec's device where unset"
    )
    precision: Literal["no", "bf16", "fp16"] = Field(
        default="no", description="of what is computed in training, mixed with single precision; weights keep theirs"
    )
    trainer: Reference | None = Field(
        default=None,
        description="module:callable that trains the model of the factory, cut in place, in place of all this",
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """A trainer of the user's own does what the other options would say."""
        if given.get("trainer") is not None:
            for key, field in cls.model_fields.items():
                if key != "trainer" and given.get(key, field.default) != field.default:
                    yield Problem("S110", "cannot be given together with trainer", "it trains as it likes", (key,))

    @classmethod
    def needs_tasks(cls, given: Mapping[str, Any]) -> bool:
        """Always: it trains on their losses, or is judged by them."""
        return True
