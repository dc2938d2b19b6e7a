"""The beginning of a module of one's own: `detframe new KIND NAME`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from detframe.cli.arguments import base_parser, local_path
from detframe.cli.common import run_command

EPILOG = """\
kinds: backbone, rpn-head (or head), roi-head, detector, loss, format, transform, evaluator, optimizer, schedule, logger

Writes NAME.py, which works as it is and says what it is given and must return; NAME.yaml, a config that uses it; and
test_NAME.py for pytest. Nothing is written over. docs/contracts.md has the contracts of all registries.

examples: detframe new head my_head
          detframe test-module my_head.py
          detframe train --config-file my_head.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("new", "Write the skeleton of a module of your own, with a config and a test.", EPILOG)
    parser.add_argument("kind", metavar="KIND", help="what it is to be, see below")
    parser.add_argument("name", metavar="NAME", help="what configs call it, and its file: letters, digits and _")
    parser.add_argument(
        "--output", type=local_path, metavar="DIR", default=".", help="where the files go (the working folder)"
    )
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    from detframe.contracts.skeletons import write_skeleton

    paths = write_skeleton(args.kind, args.name, Path(args.output))
    sys.stdout.write("".join(f"{path}\n" for path in paths) + _following(paths))
    return 0


def _following(paths: Sequence[Path]) -> str:
    """The commands that test what was written; data of a format are first those that its test makes."""
    module, config, *catalog, test = paths
    if not catalog:
        return f"next: detframe test-module {shlex.quote(str(module))}\n"
    folder = (
        "" if module.parent == Path() else f"cd {shlex.quote(str(module.parent))} && "
    )  # catalogs are named from here
    return (
        f"next: python -m pytest {shlex.quote(str(test))}\n"
        f"and once {catalog[0]} names your files: "
        f"{folder}detframe test-module {module.name} --config-file {config.name}\n"
    )
