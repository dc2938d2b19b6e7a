"""One HTML file that opens without a network: templates, styles, scripts and pictures are all inside it."""

from __future__ import annotations

import functools
import json
import math
import time
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from detframe import __version__
from detframe.files import write_json, write_text
from detframe.report.numbers import report_numbers
from detframe.report.report import Report
from detframe.report.views import page_view
from detframe.texts import format_seconds

NUMBERS_FILE = "report.json"
_PILLS = {"stopped early": "early", "cut": "cut", "evaluation": "evaluation"}


def write_report(path: Path, report: Report) -> Path:
    """Write the page, and the same numbers as report.json beside it; whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    page = render(report)
    write_json(path.with_suffix(".json"), report_numbers(report), indent=1, allow_nan=False)
    write_text(path, page)
    return path


def render(report: Report) -> str:
    """The page as HTML."""
    view, data = page_view(report)
    return fill(
        "page.html", data, ("common.js", "pictures.js", "page.js"), **view, date=time.strftime("%Y-%m-%d %H:%M")
    )


def fill(template: str, data: Any, scripts: tuple[str, ...], plotly: bool = True, **values: Any) -> str:
    """A template with what every page has.

    Args:
        data: what the scripts read; JSON.
        plotly: whether the page has charts.
    """
    return (
        _templates()
        .get_template(template)
        .render(
            style=_own("style.css"),
            script="\n".join(map(_own, scripts)),
            plotly=_plotly() if plotly else "",
            data=script_json(data),
            version=__version__,
            **values,
        )
    )


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def figure(value: float | None, form: str) -> str:
    """A number as tables show it; "–" where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    forms = {
        "count": "{:,.0f}",
        "ap": "{:.1f}",
        "metric": "{:.2f}",
        "score": "{:.2f}",
        "percent": "{:.1%}",
        "change": "{:+.1f}",
        "seconds": "{:.3f}",
    }
    return forms[form].format(value)


def duration(seconds: float | None) -> str:
    """ "3 min 20 s" as "0:03:20"; "" where nobody knows."""
    return "" if seconds is None else format_seconds(seconds)


@functools.cache
def _templates() -> Environment:
    """Every value is escaped as HTML, whoever wrote the file that it comes from; an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("detframe.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["figure"] = figure
    made.filters["pill"] = lambda status: _PILLS.get(status, "")
    made.filters["given"] = lambda text: "–" if text is None else text
    return made


def _own(name: str) -> str:
    return (resources.files("detframe.report") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """The library, without a word that would end the element that holds it."""
    import plotly

    text = (resources.files(plotly) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script")
