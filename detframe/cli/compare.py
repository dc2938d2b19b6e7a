"""Runs side by side: `detframe compare RUN_A RUN_B ...`."""

from __future__ import annotations

import argparse
import logging
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.cli.arguments import base_parser, local_path
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.report import html_file
from detframe.config.paths import expanded
from detframe.errors import InvalidValueError

if TYPE_CHECKING:
    from detframe.report.compare import Comparison, Row

logger = logging.getLogger(__name__)

EPILOG = """\
Shows which keys of the configs differ, the metrics, and the images whose outcome changed most. A run that has left no
detections is predicted again with its best weights.

example: detframe compare output/baseline output/larger_images --output compare.html
"""
_WIDEST = 40  # characters of a value in the terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("compare", "Compare runs: configs, metrics, and the images that changed most.", EPILOG)
    parser.add_argument("folders", metavar="RUN", nargs="+", help="OUTPUT_DIR of a run; two or more")
    parser.add_argument(
        "--output", type=local_path, metavar="FILE", default="compare.html", help="the page (compare.html)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    if len(args.folders) < 2:
        raise InvalidValueError(f"a comparison needs two runs or more, not only {args.folders[0]}")
    log_to_terminal()
    from detframe.engine.report_run import collect_report
    from detframe.report.compare import compare_runs, write_comparison

    output = html_file(args.output)
    runs = [collect_report(expanded(folder)) for folder in args.folders]
    comparison = compare_runs([cfg for cfg, _ in runs], [report for _, report in runs])
    for note in comparison.notes:
        logger.warning("%s", note)
    path = write_comparison(output, comparison)
    sys.stdout.write(as_text(comparison))
    logger.info("comparison written to %s", path)
    if args.open:
        webbrowser.open(Path(path).resolve().as_uri())
    return 0


def as_text(comparison: Comparison) -> str:
    """What differs, as tables for the terminal."""
    from detframe.texts import text_table

    parts = []
    if comparison.config:
        rows = [[change.key, *(_short(value) for value in change.values)] for change in comparison.config]
        parts.append(text_table([["key", *comparison.names], *rows]))
    else:
        parts.append("the configs do not differ")
    for one in comparison.sets:
        names = [comparison.names[i] for i in one.runs]
        parts.append(text_table([[one.name, *names], *map(_cells, (*one.metrics, *one.classes))]))
    if not comparison.sets:
        parts.append("no data set was evaluated by two of these runs, so there are no metrics to compare")
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    digits = 4 if row.is_loss else 1
    return [row.name, *("N/A" if value is None else f"{value:.{digits}f}" for value in row.values)]


def _short(value: str | None) -> str:
    text = "-" if value is None else value
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
