"""Which tests `make test` runs at once and which are `medium`: by times.json, the measured seconds of the longer ones.

The table has one row for each test whose cases together take more than `LIMIT` seconds: how long a single case takes on
an idle machine, with the fixtures of its module or session that it waits for, the longest first. Of such a test the
first tier runs as many cases as fit into `LIMIT`, spread over all of them; the others get the mark `medium`, as do all
cases where one takes longer. A test without a row runs at once, so that a new one needs no entry. `make test-times`
measures anew.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

TIMES = Path(__file__).with_name("times.json")
LIMIT = 0.4
PROPERTY = "seconds alone"

Case = TypeVar("Case")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-times", action="store_true", help=f"write what tests of this run take to {TIMES.name}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("write_times"):
        config.pluginmanager.register(Stopwatch())
        if not hasattr(config, "workerinput"):  # this is no process of pytest-xdist, or the one that starts them
            config.pluginmanager.register(TimesWriter())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases = defaultdict(list)
    for item in items:
        cases[without_case(item.nodeid)].append(item)
    for test, seconds in read_times().items():
        for item in later_cases(cases[test], seconds):
            item.add_marker("medium")


def without_case(nodeid: str) -> str:
    """The test without the name of its case: file::function."""
    return nodeid.split("[", 1)[0]


def read_times() -> dict[str, float]:
    return json.loads(TIMES.read_text(encoding="utf-8"))


def later_cases(cases: list[Case], seconds: float) -> list[Case]:
    """The cases that do not run at once, where each takes that many seconds."""
    number = min(len(cases), int(LIMIT / seconds))
    at_once = {len(cases) * place // number for place in range(number)}
    return [case for place, case in enumerate(cases) if place not in at_once]


class Stopwatch:
    """Measures each test as if it ran alone: its own seconds and those of the shared fixtures that it uses."""

    def __init__(self) -> None:
        self.shared: dict[tuple[str, str], float] = {}  # by name and by the module, or what else has it
        self.own = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                seconds = time.perf_counter() - begin
                self.shared[fixturedef.argname, request.node.nodeid] = seconds
                self.own -= seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report = yield
        self.own += call.duration
        if call.when == "teardown":
            owners = {node.nodeid for node in item.listchain()}
            names = set(item.fixturenames)  # type: ignore[attr-defined]
            waited = sum(s for (name, owner), s in self.shared.items() if name in names and owner in owners)
            report.user_properties.append((PROPERTY, self.own + waited))
            self.own = 0.0
        return report


class TimesWriter:
    """Collects what the processes measured and writes the table; tests of files that did not run keep their rows."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, seconds in report.user_properties:
            if name == PROPERTY:
                self.seconds[without_case(report.nodeid)].append(float(seconds))

    def pytest_sessionfinish(self) -> None:
        TIMES.write_text(table(read_times(), self.seconds), encoding="utf-8")


def table(before: dict[str, float], measured: dict[str, list[float]]) -> str:
    """The text of times.json, the longest first, after a run that measured the cases of some tests."""
    files = {test.split("::")[0] for test in measured}
    rows = {test: seconds for test, seconds in before.items() if test.split("::")[0] not in files}
    rows |= {test: max(round(sum(s) / len(s), 2), 0.001) for test, s in measured.items() if sum(s) > LIMIT}
    return json.dumps(dict(sorted(rows.items(), key=lambda row: -row[1])), indent=1) + "\n"
