"""Progress without a terminal: one plain line per outcome."""

from __future__ import annotations

import io

from pagcp_cli.live import live_progress


def evaluation(group: str, ratio: float, verdict: str) -> dict[str, object]:
    return {"group": group, "ratio": ratio, "losses": {"age": 0.5}, "verdict": verdict}


def test_without_a_terminal_a_group_is_a_line_and_a_price_is_none() -> None:
    stream = io.StringIO()
    with live_progress(stream) as told:
        told("pass_start", {"name": "pagcp"})
        for ratio, verdict in ((0.1, "accepted"), (0.2, "rejected")):
            told("evaluation", evaluation("stem", ratio, verdict))
        told("evaluation", evaluation("head", 0.1, "accepted"))
        for ratio in (0.1, 0.2, 0.3):
            told("evaluation", evaluation("body", ratio, "priced"))
        told("evaluation", evaluation("body", 0.2, "kept"))
        told("warning", {"message": "so"})
    assert stream.getvalue().splitlines() == [
        "pagcp: started",
        "stem at 20%: age 0.5000, rejected",
        "head at 10%: age 0.5000, accepted",
        "body at 20%: age 0.5000, kept",
        "warning: so",
    ]


def test_what_was_gone_on_with_and_given_back_is_told() -> None:
    stream = io.StringIO()
    with live_progress(stream) as told:
        told("resumed", {"answers": 12})
        told("back_off", {"margins": {"digit": -0.25, "denoise": 0.5}, "given": ["stem 3 -> 8", "up 2 -> 4"]})
    assert stream.getvalue().splitlines() == [
        "goes on with an interrupted run, of which 12 answers are known",
        "margins on validation: digit -0.250, denoise 0.5000; given back: stem 3 -> 8, up 2 -> 4",
    ]
