"""`make zoo`: every network of bench/zoo/names.py in processes of its own, then the results and the page.

`--only PATTERN` takes the names that match (fnmatch, or a part of the name), `--fresh` measures what is cached again,
`--jobs N` runs N at a time. Rows are cached by name under what the measurement depends on: this code, not the commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from bench.zoo.models import ENTRIES, Entry
from bench.zoo.pages import coverage
from bench.zoo.results import RATIO, record, summary

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "out" / "zoo"
Row = dict[str, Any]
SECONDS, PEER_SECONDS, GIGABYTES = 300, 60, 9.0
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation_models_pytorch",
    "pytorchcv",
    "ultralytics",
    "torch-pruning",
)
MEASURED = ("specs/*.py", "pagcp_ir/*.py", "passes/ratios.py", "passes/criteria.py", "bench/zoo/*.py")


def main() -> int:
    """0 when all rows were made."""
    given = _arguments()
    chosen = [e for name, e in ENTRIES.items() if not given.only or any(_matches(name, p) for p in given.only)]
    runner = _Runner(given)
    with ThreadPoolExecutor(given.jobs) as pool:
        rows = list(pool.map(runner.run, sorted(chosen, key=_order)))
    if not given.only:
        write_results(sorted(rows, key=lambda row: list(ENTRIES).index(row["name"])), given)
    return 0


def write_results(rows: Sequence[Row], given: argparse.Namespace) -> None:
    """bench/results/zoo.json and docs/coverage.md."""
    records = [record(row) for row in rows]
    found = {
        "versions": {name: version(name) for name in LIBRARIES},
        "cores": os.cpu_count(),
        "ratio": RATIO,
        "limits": {"seconds": given.seconds, "peer_seconds": PEER_SECONDS, "gigabytes": GIGABYTES},
        "summary": summary(records),
        "rows": records,
    }
    path = ROOT / "bench" / "results" / "zoo.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (ROOT / "docs" / "coverage.md").write_text(coverage(found), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description=__doc__)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="only names that match; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="measure again what is cached")
    parser.add_argument("--stale", action="store_true", help="take cached rows of older code too")
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time (default 2)")
    parser.add_argument("--no-check", action="store_true", help="leave out the proof of exactness")
    parser.add_argument("--no-peer", action="store_true", help="leave out torch-pruning")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="limit per network and tool")
    return parser.parse_args()


def _order(entry: Entry) -> tuple[bool, bool]:
    """Heavy networks last, before them torchvision's: most kinds of networks are seen early."""
    return entry.heavy, entry.library == "torchvision"


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or pattern in name


class _Runner:
    """Measures rows, several at a time but a heavy one alone, and keeps them under the cache folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.lock = given, Lock()
        self.places = Semaphore(given.jobs)
        self.idle: list[_Worker] = []
        self.key = code_key()
        CACHE.mkdir(parents=True, exist_ok=True)

    def run(self, entry: Entry) -> Row:
        cached = self._cached(entry)
        if cached is not None:
            return cached
        row = self._measured(entry)
        row["key"] = self.key
        _path(entry.name).write_text(json.dumps(row), encoding="utf-8")
        with self.lock:
            print(line(row), flush=True)
        return row

    def _cached(self, entry: Entry) -> Row | None:
        path = _path(entry.name)
        if self.given.fresh or not path.is_file():
            return None
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        return row if self.given.stale or row.get("key") == self.key else None

    def _measured(self, entry: Entry) -> Row:
        with _all_places(self.places, self.given.jobs if entry.heavy else 1):
            worker = self.idle.pop() if self.idle else _Worker(self.given)
            row = worker.row(entry)
            if row is not None:
                self.idle.append(worker)
                return row
        return {
            "name": entry.name,
            "library": entry.library,
            "family": entry.family,
            "build_error": "its process ended",
        }


class _Worker:
    """A process that has imported the libraries and makes rows, one after the other."""

    def __init__(self, given: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "bench.zoo.one", "-", "--seconds", str(given.seconds)]
        command += ["--peer-seconds", str(PEER_SECONDS), "--gigabytes", str(GIGABYTES)]
        command += ["--no-check"] * given.no_check + ["--no-peer"] * given.no_peer
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | threads, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def row(self, entry: Entry) -> Row | None:
        """The measured row, None when the process ended."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(entry.name + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for text in self.process.stdout:
            if text.startswith('{"name"'):
                found: Row = json.loads(text)
                return found
        return None


class _all_places:
    """Takes `count` places of a semaphore; one taker at a time, so that nothing can wait crosswise."""

    _turn = Lock()

    def __init__(self, places: Semaphore, count: int) -> None:
        self.places, self.count = places, count

    def __enter__(self) -> None:
        with self._turn:
            for _ in range(self.count):
                self.places.acquire()

    def __exit__(self, *error: object) -> None:
        for _ in range(self.count):
            self.places.release()


def code_key() -> str:
    """A hash over the code that a row depends on."""
    digest = hashlib.sha256()
    for path in _sources(MEASURED):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(ROOT.glob(pattern))


def _path(name: str) -> Path:
    return CACHE / (name.replace("/", "--") + ".json")


def line(row: Row) -> str:
    """The row in one line of text."""
    if "build_error" in row:
        return f"{row['name']:44s} not built: {row['build_error'][:100]}"
    ours, peer = row["ours"], row.get("peer", {})
    status = ours["error"]["type"] if "error" in ours else ours.get("status", "unchecked")
    times = ours.get("seconds", {})
    spent = sum(t["cpu"] for name, t in times.items() if name != "verify")
    other = sum(t["cpu"] for t in peer.get("seconds", {}).values())
    theirs = peer["error"]["type"] if "error" in peer else peer.get("equal", "-")
    return (
        f"{row['name']:44s} {status:14s} conv {_number(ours.get('prunable_conv'))} all {_number(ours.get('prunable'))} "
        f"kept {_number(ours.get('flops_kept'))} {spent:6.2f} s {ours.get('peak_mb', 0):5d} MB | "
        f"peer {theirs:14s} kept {_number(peer.get('flops_kept'))} {other:6.2f} s | {row.get('total_seconds', 0):.0f} s"
    )


def _number(value: float | None) -> str:
    return "  - " if value is None else f"{value:4.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
