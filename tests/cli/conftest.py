"""What the command line's tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forget_user_modules() -> Iterator[None]:
    """Compiles in this process import `net` from another folder each time."""
    path = list(sys.path)
    yield
    sys.modules.pop("net", None)
    sys.path[:] = path
