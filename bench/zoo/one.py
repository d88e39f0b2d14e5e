"""Rows of the zoo: `python -m bench.zoo.one NAME...` prints each as JSON on a line; `-` reads names from stdin.

The libraries are imported once; every network is built, cut and compared in processes of its own that are forked from
here: one that builds it, and from that one for ours and one for the peer, on the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator

import torch

from bench.zoo import ours, peer
from bench.zoo.models import ENTRIES, Entry, build, import_libraries
from bench.zoo.process import Row, forked
from bench.zoo.scale import unit_scale

__all__ = ["main"]


def row_of(entry: Entry, given: argparse.Namespace) -> Row:
    """Everything that is measured of one network."""
    seconds, gigabytes = (
        (given.heavy_seconds, given.heavy_gigabytes) if entry.heavy else (given.seconds, given.gigabytes)
    )

    def measured(row: Row) -> None:
        torch.manual_seed(0)
        began = time.perf_counter()
        model = build(entry)
        unit_scale(model, entry.size)
        row["build_seconds"] = round(time.perf_counter() - began, 2)
        mine = forked(lambda r: ours.measure(model, entry.size, not given.no_check, r), seconds, gigabytes)
        row["ours"] = mine
        if not given.no_peer:
            known = mine.get("protected"), bool(mine.get("attention", True))
            limit = min(seconds, given.peer_seconds)
            row["peer"] = forked(lambda r: peer.measure(model, entry.size, *known, r), limit, gigabytes)

    began = time.perf_counter()
    found: Row = {"name": entry.name, "library": entry.library, "family": entry.family, "size": entry.size}
    found |= forked(measured, seconds, gigabytes)
    found["total_seconds"] = round(time.perf_counter() - began, 1)
    if "ours" not in found:
        error = found.pop("error")
        found["build_error"] = f"{error['type']}: {error['text']}"
    return found


def main() -> int:
    """0 when all rows were printed."""
    given = _arguments()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    import_libraries()
    ours.warm_up()
    peer.warm_up()
    for name in _names(given.names):
        print(json.dumps(row_of(ENTRIES[name], given)), flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.one")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--gigabytes", type=float, default=9.0)
    parser.add_argument("--heavy-seconds", type=int, default=900)
    parser.add_argument("--heavy-gigabytes", type=float, default=20.0)
    parser.add_argument("--peer-seconds", type=int, default=60)
    return parser.parse_args()


def _names(given: list[str]) -> Iterator[str]:
    for name in given:
        if name == "-":
            yield from (line.strip() for line in sys.stdin)
        else:
            yield name


if __name__ == "__main__":
    raise SystemExit(main())
