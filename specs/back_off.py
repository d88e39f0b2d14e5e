"""What backing off leaves behind: what was tried, and what was given back to keep the guarantees. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Attempt", "BackOff", "GivenBack"]


@dataclass(frozen=True)
class GivenBack:
    """A group whose width went back from `before` to `after`, for `task`, which its cut cost most per MAC."""

    group: str
    before: int
    after: int
    task: str
    macs: int


@dataclass(frozen=True)
class Attempt:
    """A network that was held against the guarantees on validation, once it was recovered.

    By task: `values` of its metric, and `margins`, how far it stays from the worst value allowed; negative: missed.
    """

    macs: int
    params: int
    values: Mapping[str, float] = field(hash=False)
    margins: Mapping[str, float] = field(hash=False)

    @property
    def missed(self) -> tuple[str, ...]:
        """The tasks that miss their guarantee; a margin that is no number is a miss."""
        return tuple(task for task, margin in self.margins.items() if not margin >= 0)


@dataclass(frozen=True)
class BackOff:
    """All attempts, the first one as the passes left it, and what lies between first and last.

    `confidence`: the margins are those of bounds that this share of resamples keeps.
    """

    attempts: tuple[Attempt, ...]
    given: tuple[GivenBack, ...]
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """The data of evidence.json."""
        return asdict(self)
