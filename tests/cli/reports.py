"""What the tests of reports share: a small result with every kind of figure, and what a page holds."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from tests.cli.test_plans import PASSES, SPEC, project

EVIL = "<script>alert(1)</script> & $x_1$ \"'"
TASKS = f"""  - {{name: size, loss: mse_loss, metric: MeanAbsoluteError, guarantee: {{max_drop: 900}}}}
  - {{name: {json.dumps(EVIL)}, loss: l1_loss, metric: MeanAbsoluteError, guarantee: {{at_most: 0}}}}
  - {{name: seen, loss: mse_loss, metric: MeanSquaredError}}
"""


def reported(folder: Path) -> Path:
    """A spec with a guarantee that is kept, one that is missed, and a task without; search, refit and training."""
    passes = PASSES["recovered"].replace("epochs: 1", "epochs: 2")
    path = project(folder, passes)
    text = SPEC.replace("PASSES", passes)
    path.write_text(re.sub(r"  - \{name: size.*\n", lambda _: TASKS, text))
    return path


class Page(HTMLParser):
    """A page's tags in order, and the text of its headings, captions and cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def charts(self) -> list[str]:
        """The names of the charts."""
        return [str(at["data-chart"]) for tag, at in self.tags if tag == "svg"]
