"""A module of one's own against the contract of its registry: `detframe test-module my_head.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detframe.cli.arguments import base_parser, local_path
from detframe.cli.common import run_command
from detframe.texts import counted

if TYPE_CHECKING:
    from detframe.contracts.results import Result

EPILOG = """\
Imports the file (it runs its code), finds what it registers, and tries it in a small detector on the CPU: shapes and
types, losses and gradients, images without objects, some steps on two images, two evaluations, saving and loading,
two processes, export. Transforms, formats, evaluators, optimizers, schedules and loggers are tried by themselves.
Takes about a minute; the exit code is 1 where something is wrong. docs/contracts.md says what each registry asks for.

examples: detframe test-module my_head.py
          detframe test-module my_package.heads
          detframe test-module my_head.py --config-file my_head.yaml MODEL.FPN.OUT_CHANNELS 128
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("test-module", "Test a module of your own against the contract of its registry.", EPILOG)
    parser.add_argument(
        "file",
        type=local_path,
        metavar="FILE.py",
        help="the file that registers it, or an installed module, as my_package.heads",
    )
    parser.add_argument(
        "--config-file", type=local_path, metavar="FILE", default="", help="a config in which it stands"
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="overrides, as in MODEL.FPN.OUT_CHANNELS 128")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    from detframe.contracts import test_file
    from detframe.contracts.results import FAILED, SKIPPED

    member, said = "", dict[str, str]()

    def show(result: Result) -> None:
        nonlocal member, said
        if result.member != member:
            member, said = result.member, {}
            sys.stdout.write(f"{member}\n")
        sys.stdout.write(f"  {result.test:<40}{result.state}\n")
        if result.why:
            first = said.setdefault(result.why, result.test)
            sys.stdout.write(f"      {result.why if first == result.test else f'the same as of: {first}'}\n")
        sys.stdout.flush()

    results = test_file(args.file, args.config_file, tuple(args.opts), show)
    numbers = {state: sum(result.state == state for result in results) for state in (FAILED, SKIPPED)}
    told = ", ".join(f"{number} {state.lower()}" for state, number in numbers.items() if number)
    sys.stdout.write(f"{counted(len(results), 'test')}, {told or 'all is well'}\n")
    return 1 if numbers[FAILED] else 0
