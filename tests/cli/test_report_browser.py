"""report.html in a real browser, from a file: no errors, no requests, every figure has a size, narrow and wide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pagcp_cli import compile_spec, load_spec
from tests.cli.reports import EVIL, Page, reported

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A page of its own asks the report, in a frame of each width, how large everything is.
PROBE = """<!DOCTYPE html><body><script>
const told = [], widths = [400, 1280];
function measure(frame, width) {
  const page = frame.contentDocument, styled = getComputedStyle(page.querySelector("main")).maxWidth;
  const charts = [...page.querySelectorAll("svg")].map(svg => {
    const box = svg.getBoundingClientRect(), marks = svg.querySelectorAll("path, use, rect").length;
    return [svg.dataset.chart, box.width, box.height, marks, svg.querySelectorAll("text").length];
  });
  told.push({width, scroll: page.documentElement.scrollWidth, styled, charts});
  if (told.length == widths.length) document.body.dataset.told = JSON.stringify(told);
}
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "4000px";
  frame.onload = () => measure(frame, width); frame.src = "out/report.html"; document.body.append(frame);
}
</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result in `out`; made before the browser starts, and only where there is one."""
    if BROWSER is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome on PATH")
    folder = tmp_path_factory.mktemp("browser")
    compile_spec(load_spec(reported(folder)), folder / "out")
    (folder / "probe.html").write_text(PROBE)
    return folder


def opened(folder: Path, page: Path, *options: str) -> tuple[str, str]:
    """The page's DOM after it was loaded, and what the console and the browser said of it."""
    assert BROWSER is not None
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    fixed += ["--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions"]
    fixed += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    command = [BROWSER, *fixed, *options, "--dump-dom", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


def requests(log: Path) -> set[str]:
    """What pages asked the network for; what the browser asks on its own account has no origin."""
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {str(p["url"]) for p in events if "url" in p and p.get("initiator", "not an origin") != "not an origin"}
    return {url for url in asked if re.match(r"(https?|wss?):", url)}


def test_a_file_is_shown_without_errors_or_requests(folder: Path) -> None:
    log = folder / "net.json"
    dom, said = opened(folder, folder / "out" / "report.html", f"--log-net-log={log}")
    assert Page(dom).charts == Page((folder / "out" / "report.html").read_text()).charts
    assert EVIL in Page(dom).text
    assert "CONSOLE" not in said
    assert requests(log) == set()


def test_a_page_that_asks_for_something_is_caught(folder: Path) -> None:
    page, log = folder / "asks.html", folder / "asks.json"
    page.write_text('<img src="http://nowhere.invalid/x.png"><script>console.error("told")</script>')
    _, said = opened(folder, page, f"--log-net-log={log}")
    assert requests(log) == {"http://nowhere.invalid/x.png"}
    assert "CONSOLE" in said


def test_every_figure_has_a_size_on_a_phone_and_on_a_desk(folder: Path) -> None:
    dom, said = opened(folder, folder / "probe.html", "--allow-file-access-from-files")
    body = next(at for tag, at in Page(dom).tags if tag == "body")
    found = json.loads(str(body["data-told"]))
    expected = Page((folder / "out" / "report.html").read_text()).charts
    assert {each["width"] for each in found} == {400, 1280}
    for each in found:
        assert [name for name, *_ in each["charts"]] == expected
        assert all(wide > 200 and high > 40 and drawn and told for _, wide, high, drawn, told in each["charts"])
        assert each["scroll"] <= each["width"]  # only tables scroll, not the page
        assert each["styled"] == "1120px"
    assert "CONSOLE" not in said
