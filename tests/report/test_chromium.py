"""The page in a real browser: no network, no errors, filters and tables that work, wide and narrow."""

from __future__ import annotations

import pytest

from detframe.engine.report_run import collect_report, report_run
from detframe.report.compare import compare_runs, write_comparison
from tests.browser import Browser, browser, find_chromium
from tests.report.runs import FOUND, TRUTH, make_run

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run, a comparison of two, and a report about which there is little to say."""
    folder = tmp_path_factory.mktemp("runs")
    one = make_run(folder / "one", TRUTH, FOUND)
    two = make_run(folder / "two", TRUTH, {**FOUND, 3: [(2, [30, 30, 60, 60], 0.9)]}, data=one / "data")
    empty = make_run(folder / "empty", TRUTH, {}, rows=[], data=one / "data")
    runs = [collect_report(run) for run in (one, two)]
    comparison = compare_runs([cfg for cfg, _ in runs], [report for _, report in runs])
    return {
        "report": report_run(one),
        "empty": report_run(empty),
        "compare": write_comparison(folder / "compare.html", comparison),
    }


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["report", "empty", "compare"])
def test_it_opens_without_network_errors_and_sideways_scrolling(chromium: Browser, pages, name, width):
    chromium.open(pages[name], width)
    chromium.scroll_through()
    assert chromium.errors == []
    assert chromium.requests == [pages[name].as_uri()]
    assert chromium.ask("document.documentElement.scrollWidth <= window.innerWidth")
    assert chromium.ask(
        "[...document.querySelectorAll('.chart')].every((c) => c.textContent.trim() || c.querySelector('svg'))"
    )


def test_charts_have_lines(chromium: Browser, pages):
    chromium.open(pages["report"])
    chromium.scroll_through()
    for name in ("iou", "score", "pr", "loss", "metrics", "rate"):
        chromium.wait(f"document.querySelectorAll('[data-chart={name}] .scatterlayer .trace').length > 0")
    assert chromium.ask("document.querySelectorAll('[data-chart=calibration] .bars .point').length") > 0
    chromium.ask(
        "(() => { const c = document.querySelector('[data-control=class]'); c.value = '2';"
        " c.dispatchEvent(new Event('change')); })()"
    )
    assert chromium.ask("document.querySelector('[data-chart=score]').data[0].x") == [0.85, 0.8, 0.7]
    assert chromium.errors == []


def choose(chromium: Browser, name: str, value: str) -> int:
    """Choose a value of a filter; returns how many pictures are left."""
    chromium.ask(
        f"(() => {{ const f = document.querySelector('[data-filter={name}]'); f.value = '{value}';"
        " f.dispatchEvent(new Event('change')); })()"
    )
    return chromium.ask("document.querySelectorAll('.card').length")


def test_filters_show_what_fits(chromium: Browser, pages):
    chromium.open(pages["report"])
    assert chromium.ask("document.querySelectorAll('.card').length") == 2  # the worst images
    chromium.ask("document.querySelector('[data-kind=\"false positive\"]').click()")
    assert chromium.ask("document.querySelectorAll('.card').length") == 3
    assert choose(chromium, "label", "box") == 2
    assert choose(chromium, "error", "wrong class") == 1
    assert chromium.ask("document.querySelector('.card .says').textContent").startswith(
        "box 0.70: the object there is a ball"
    )
    assert choose(chromium, "label", "ball") == 0
    assert "None fits" in chromium.ask("document.querySelector('.cards').textContent")
    chromium.ask("document.querySelector('[data-clear]').click()")
    assert chromium.ask("document.querySelectorAll('.card').length") == 3
    chromium.ask("document.querySelector('[data-kind=missed]').click()")
    assert choose(chromium, "size", "medium") == 3
    assert choose(chromium, "label", "box") == 2
    assert "annotation 1003" in chromium.ask("document.querySelector('.cards').textContent")
    assert chromium.errors == []


def test_a_click_opens_a_larger_picture_with_the_boxes(chromium: Browser, pages):
    chromium.open(pages["report"])
    chromium.ask("document.querySelector('[data-kind=missed]').click()")
    chromium.ask("document.querySelector('.card button').click()")
    assert chromium.ask("document.querySelector('dialog').open")
    assert "003.jpg" in chromium.ask("document.querySelector('[data-where]').textContent")
    assert "1003" in chromium.ask("document.querySelector('dialog .lists').textContent")
    assert chromium.ask("document.querySelector('dialog img').complete")
    first = chromium.ask(
        "document.querySelector('[data-says]').textContent + document.querySelector('[data-where]').textContent"
    )
    chromium.ask("document.querySelector('[data-step=\"1\"]').click()")
    second = chromium.ask(
        "document.querySelector('[data-says]').textContent + document.querySelector('[data-where]').textContent"
    )
    assert first != second
    chromium.ask("document.querySelector('[data-close]').click()")
    assert not chromium.ask("document.querySelector('dialog').open")
    assert chromium.errors == []


def test_tables_sort_by_numbers_with_what_is_unknown_last(chromium: Browser, pages):
    chromium.open(pages["report"])
    click = "document.querySelectorAll('[data-table=ap] th button')[{0}].click()"
    names = "[...document.querySelectorAll('[data-table=ap] tbody tr')].map((row) => row.cells[0].textContent)"
    assert chromium.ask(names) == ["all classes", "ball", "box"]
    chromium.ask(click.format(0))
    chromium.ask(click.format(0))
    assert chromium.ask(names) == ["all classes", "box", "ball"]
    chromium.ask(click.format(8))  # large: there is none
    assert chromium.ask(names)[0] == "all classes"
    chromium.ask(click.format(3))  # AP, the highest first
    rows = "[...document.querySelectorAll('[data-table=ap] tbody tr')].slice(1)"
    values = chromium.ask(f"{rows}.map((row) => Number(row.cells[3].dataset.value))")
    assert values == sorted(values, reverse=True)
    assert chromium.ask("document.querySelectorAll('[data-table=ap] th')[3].getAttribute('aria-sort')") == "descending"


def test_the_comparison_shows_both_runs_on_an_image(chromium: Browser, pages):
    chromium.open(pages["compare"])
    assert chromium.ask("document.querySelectorAll('.card').length") >= 1
    assert chromium.ask(
        "[...document.querySelectorAll('.card')[0].querySelectorAll('.tag')].map((t) => t.textContent)"
    ) == ["one", "two"]
    assert "003.jpg" in chromium.ask("document.querySelector('.card .where').textContent")
