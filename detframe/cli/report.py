"""The page of a run: `detframe report OUTPUT_DIR`."""

from __future__ import annotations

import argparse
import logging
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from detframe.cli.arguments import base_parser, local_path
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.media import file_to_write
from detframe.errors import InvalidValueError
from detframe.storage.folders import is_store

logger = logging.getLogger(__name__)

EPILOG = """\
A training and an evaluation write this page at their end (TEST.REPORT); the command makes it again, and for runs that
have none. Where a run has left no detections, its best weights predict them again.

example: detframe report output --open
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser(
        "report", "Write one HTML page about a run: how good it is, where it fails, what next.", EPILOG
    )
    parser.add_argument("folder", metavar="OUTPUT_DIR", help="of a training or an evaluation")
    parser.add_argument(
        "--output", type=local_path, metavar="FILE", default="", help="the page (OUTPUT_DIR/report.html)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    from detframe.engine.report_run import report_run
    from detframe.engine.reporting import CONFIG_FILE
    from detframe.engine.store_copies import OF_REPORT, borrowed
    from detframe.engine.terminal import RESULT

    output = html_file(args.output) if args.output else None
    if args.open and output is None and is_store(args.folder):
        raise InvalidValueError(
            f"--open shows a page of this machine; name one with --output, as {args.folder} is none"
        )
    with borrowed(args.folder, OF_REPORT, CONFIG_FILE, writes=output is None) as folder:
        path = report_run(folder, output)
    logger.info("report written to %s", path if output or not is_store(args.folder) else args.folder, extra=RESULT)
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def html_file(name: str) -> Path:
    """The file that --output names. Raises ValueError where it is no HTML file, else as `file_to_write`."""
    path = file_to_write(name)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidValueError(f"--output {name} must be the name of an HTML file, as report.html")
    return path
