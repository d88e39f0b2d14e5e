"""What `passes` and `explain` print: names on the left, what is told of them on the right, wrapped to the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from pagcp_cli.render import pairs, text_of
from specs.catalogue import OptionEntry, PassEntry
from specs.explanations import Explanation

__all__ = ["explanation_report", "passes_report"]


def passes_report(passes: Iterable[PassEntry]) -> str:
    """One paragraph per pass: what it does, then its options, those of all passes that cut last."""
    parts: list[RenderableType] = []
    for number, each in enumerate(passes):
        parts += [""] * bool(number)
        parts += [Text(each.name, style="bold"), Text(f"  {each.does}")]
        parts.append(pairs((_option(option) for option in each.options), indent=2))
    return text_of(parts)


def _option(option: OptionEntry) -> tuple[str, str]:
    default = option.default if option.default == "needed" else f"default {option.default}"
    return option.name, f"{option.description} ({option.takes}; {default})"


def explanation_report(found: Explanation) -> str:
    """The code with its meaning, cause and remedy."""
    facts = [("cause", found.cause), ("what to do", found.remedy), ("exit code", str(found.exit_code))]
    return text_of([Text(f"{found.code}: {found.meaning}", style="bold"), pairs(facts)])
