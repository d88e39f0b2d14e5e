"""The sizes that model.onnx was made for, in its metadata: where height and width are free, figures need some."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["PROPERTY", "said_sizes", "sizes_text"]

PROPERTY = "pagcp.inputs"


def sizes_text(sizes: Mapping[str, Sequence[int]]) -> str:
    """The property's value."""
    return json.dumps({name: list(shape) for name, shape in sizes.items()})


def said_sizes(model: Any) -> dict[str, tuple[int, ...]]:
    """By input's name, of an onnx.ModelProto; none of a file that does not say."""
    text = next((each.value for each in model.metadata_props if each.key == PROPERTY), "{}")
    try:
        found = {str(name): tuple(map(int, shape)) for name, shape in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):  # edited by someone
        return {}
    return {name: shape for name, shape in found.items() if min(shape, default=0) > 0}
