"""Where and in what precision fine-tuning computes: Hugging Face accelerate, in one process or as one of several.

The weights stay in single precision: what is emitted and judged is never rounded. accelerate is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from specs.diagnostics import PassError
from specs.options import FinetuneOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerator", "widened"]


def accelerator(options: FinetuneOptions, device: torch.device) -> Accelerator:
    """The accelerator for these options; `device`: where to train if the options do not say.

    PassError P410 where there is no such device, or it does not have that precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    kind = options.device or device.type
    AcceleratorState._reset_state()  # another pass may have asked for another precision
    made = Accelerator(cpu=kind == "cpu", mixed_precision=options.precision)
    if kind not in ("auto", made.device.type):
        raise PassError.one("P410", f"finetune.device: {kind} is not there, but {made.device.type} is")
    if options.precision == "fp16" and made.device.type == "cpu":
        raise PassError.one("P410", "finetune.precision: fp16 needs an accelerator", hint="a CPU has bf16")
    return made


def widened(output: Any) -> Any:
    """A network's output with what is in half precision in single precision, in which losses are computed."""
    half = (torch.float16, torch.bfloat16)
    return torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda value: value.float() if value.dtype in half else value, output
    )
