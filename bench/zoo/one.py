"""One row of the zoo: `python -m bench.zoo.one NAME [--no-check] [--no-peer]` prints it as JSON on its last line.

The network is built once; ours and the peer each run in a child forked from here, on the same weights.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch

from bench.zoo import ours, peer
from bench.zoo.models import ENTRIES, build
from bench.zoo.process import Row, forked
from bench.zoo.scale import unit_scale

__all__ = ["main"]


def row_of(name: str, check: bool, compare: bool, seconds: int, gigabytes: float) -> Row:
    """Everything that is measured of one network."""
    entry = ENTRIES[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began = time.perf_counter()
    model = build(entry)
    unit_scale(model, entry.size)
    ours.warm_up()
    found: Row = {"name": name, "library": entry.library, "family": entry.family, "size": entry.size}
    found["build_seconds"] = round(time.perf_counter() - began, 2)
    found["ours"] = forked(lambda row: ours.measure(model, entry.size, check, row), seconds, gigabytes)
    if compare:
        peer.warm_up()
        told = found["ours"]
        protected, attention = told.get("protected"), bool(told.get("attention", True))
        found["peer"] = forked(
            lambda row: peer.measure(model, entry.size, protected, attention, row), seconds, gigabytes
        )
    return found


def main() -> int:
    """0 when a row was printed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--gigabytes", type=float, default=12.0)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    row = row_of(given.name, not given.no_check, not given.no_peer, given.seconds, given.gigabytes)
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
