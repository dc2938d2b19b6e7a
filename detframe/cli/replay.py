"""Replay a non-finite training step: tools/replay.py and `detframe replay`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from detframe.cli.arguments import add_consent_argument, base_parser, local_path
from detframe.cli.common import log_to_terminal, run_command

EPILOG = """\
A training that meets a non-finite loss or gradient stops before the update and leaves one bundle per rank in
OUTPUT_DIR/nonfinite. The replay runs that step again, prints the losses beside the recorded ones, and names the first
module whose output is not finite. Exit code 0: reproduced; 1: all is finite now; 2: the bundle cannot be used.

example: tools/replay.py out/nonfinite/iter_0000123_rank0.pth --device cpu
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("replay", "Run the step again that ended in a non-finite loss.", EPILOG)
    parser.add_argument("bundle", type=local_path, metavar="FILE", help="OUTPUT_DIR/nonfinite/iter_*_rank*.pth")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:1; the recorded one without it")
    add_consent_argument(parser)
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    from detframe.engine.replaying import replay

    report = replay(args.bundle, args.device, args.allow_custom_imports)
    sys.stdout.write(report.text() + "\n")
    return 0 if report.reproduced else 1
