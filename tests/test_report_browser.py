"""The page in a real browser without a window: no error, sounds play, sorting sorts, narrow and wide."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import speechlike

from armory_mdnf.evaluation.records import read_record
from armory_mdnf.report import audits, listening, page, runs, sounds

RESULTS = Path(__file__).parents[1] / "results" / "human"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser here: none of {', '.join(PROGRAMS)}")

WIDE, NARROW = 1280, 390
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two attacked runs and a benign one; one utterance has a sound, one a tag as its name."""
    names = ("none_pgd_l2", "none_pgd_l2_0.5", "mg_mdnf_benign")
    placed = [runs.place(read_record(RESULTS / f"{name}.json"), name) for name in names]
    outcomes = placed[0].run.outcomes
    evil = dataclasses.replace(outcomes[1], id="<img src=x onerror=console.error(1)>")
    run = dataclasses.replace(placed[0].run, outcomes=(outcomes[0], evil, *outcomes[2:]), name="long_" * 20)
    placed[0] = dataclasses.replace(placed[0], run=run)
    sound = listening._sound("original", "", speechlike(16000), 16000)
    heard = {"none_pgd_l2": {0: sounds.Heard(0, (sound,), ("A", "B"))}}
    path = tmp_path_factory.mktemp("page") / "report.html"
    audited = audits.read_audits([RESULTS.parent / "audit" / "mg_mdnf_pgd_l2.json"], placed)
    path.write_text(page.render(placed, heard, audits=audited), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = ["--autoplay-policy=no-user-gesture-required"]
    if os.geteuid() == 0:  # its sandbox does not run as root
        options.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=BROWSER, args=options)
        except sync_api.Error as error:  # a snap's, for instance, outside its own folders
            pytest.skip(f"{BROWSER} does not start here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Open]:
    """Open the page. Whatever the browser complains of, or asks a network for, fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(width: int = WIDE, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: _only_local(request.url, complaints))
        shown.goto(file.as_uri())
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _only_local(address: str, complaints: list[str]) -> None:
    if not address.startswith(("file:", "data:")):
        complaints.append(f"asked for {address}")


def shown_rows(page: Any, key: str) -> list[str]:
    script = f"rows => rows.filter(row => !row.hidden).map(row => row.dataset[{key!r}])"
    found: list[str] = page.eval_on_selector_all("#utterance-table tbody tr", script)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_fits_and_can_be_read(width: int, scheme: str, opened: Open) -> None:
    shown = opened(width, color_scheme=scheme)
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    low = shown.evaluate(CONTRAST)
    assert low == []


# Text whose contrast with what is behind it is below WCAG's 4.5.
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e !== null; e = e.parentElement) {
      const found = channels(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim() !== "");
    if (!own || !element.checkVisibility() || element.closest("svg, script, option")) continue;
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.add(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return [...low];
}"""


def test_sorting_sorts(opened: Open) -> None:
    shown = opened()
    for name, key in (("errors, attacked", "attacked"), ("SNR, dB", "snr")):
        button = shown.get_by_role("button", name=name)
        orders = []
        for state in ("ascending", "descending"):
            button.press("Enter")  # by keyboard
            assert button.locator("..").get_attribute("aria-sort") == state
            values = [float(v) if v else float("-inf") for v in shown_rows(shown, key)]
            assert values == sorted(values, reverse=state == "descending")
            orders.append(values)
        assert orders[0] != orders[1]


def test_filters_filter(opened: Open) -> None:
    shown = opened()
    everything = len(shown_rows(shown, "run"))
    shown.select_option("#run-filter", label="none_pgd_l2_0.5")
    assert set(shown_rows(shown, "anchor")) == {shown.locator("#run-filter").input_value()}
    assert shown.inner_text("#count") == f"10 of {everything} shown"
    shown.check("#error-filter")
    assert all(int(errors) > 0 for errors in shown_rows(shown, "attacked"))
    shown.uncheck("#error-filter")
    shown.select_option("#run-filter", "")
    shown.fill("#text-filter", "press seven")
    assert 0 < len(shown_rows(shown, "run")) < everything
    shown.fill("#text-filter", "no such words")
    assert shown_rows(shown, "run") == []


def test_a_sound_plays(opened: Open) -> None:
    shown = opened()
    shown.check("#sound-filter")
    assert shown_rows(shown, "name") == ["1"]
    time, duration = shown.evaluate(
        "async () => { const a = document.querySelector('audio'); await a.play();"
        "await new Promise((done) => a.addEventListener('timeupdate', () => a.currentTime > 0 && done()));"
        "a.pause(); return [a.currentTime, a.duration]; }"
    )
    assert 0 < time <= duration
    assert 0.9 < duration < 1.2
    assert shown.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_a_number_leads_to_its_run(opened: Open) -> None:
    shown = opened()
    link = shown.locator(".matrix .rate").first
    link.click()
    target = shown.locator(link.get_attribute("href"))
    assert target.get_attribute("open") is not None
    assert "armory-mdnf run" in target.inner_text()


def test_a_link_to_an_audit_opens_it(opened: Open) -> None:
    shown = opened()
    shown.evaluate("location.hash = '#audit-1'")
    shown.wait_for_selector("#audit-1[open]", timeout=5000)
    assert shown.locator("#audit-1 table").is_visible()


def test_it_says_all_of_it_without_script(opened: Open) -> None:
    shown = opened(java_script_enabled=False)
    assert shown.locator("#utterance-table tbody tr").count() == 10 + 10 + 64
    assert shown.locator("#utterance-table tbody tr").last.is_visible()


def test_in_print_there_are_no_controls(opened: Open) -> None:
    shown = opened()
    shown.emulate_media(media="print")
    assert not shown.locator("#controls").is_visible()
    assert shown.locator(".matrix").first.is_visible()
