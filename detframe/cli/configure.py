"""Write the config that `detframe train --data` would train with: `detframe configure`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from detframe.cli.arguments import base_parser, local_path, parse
from detframe.cli.errors import guard
from detframe.cli.recipe import add_recipe_arguments, first_word, recipe_arguments, request_of

EPILOG = """\
The config goes to the standard output, with a comment above each choice; the catalog that it names is written to
OUTPUT_DIR (output/NAME). With --output, both are written there: recipe.yaml and catalog.yaml.

examples:
  detframe configure --data raccoons/ > my.yaml
  detframe configure --data raccoons/ --minutes 10 --output raccoons_run
  detframe train --config-file my.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("configure", "Choose a config for data and this machine, and write it.", EPILOG)
    parser.add_argument(
        "--config-file", type=local_path, metavar="FILE", default="", help="a config whose model is taken"
    )
    add_recipe_arguments(parser, required=True)
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="overrides, which win over every choice")
    args = recipe_arguments(parse(parser, argv))
    return guard(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    first_word(args)
    from detframe.recipes.plan import make_plan, output_folder
    from detframe.recipes.writing import check_output, write, write_catalog

    request = request_of(args)
    check_output(output_folder(request))
    plan = make_plan(request)
    if args.output:
        write(plan)
    else:
        write_catalog(plan)
        sys.stdout.write(plan.recipe)
    return 0
