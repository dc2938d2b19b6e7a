"""What the commands with --data share: the arguments, and the recipe that they ask for."""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.cli.common import log_to_terminal
from detframe.config import get_cfg
from detframe.errors import InvalidValueError

if TYPE_CHECKING:
    from detframe.recipes.plan import Request

logger = logging.getLogger(__name__)
MOST = 1_000_000  # minutes (two years) or epochs
_OF_DATA = ("minutes", "epochs", "model", "weights", "val_data", "format", "classes", "output")


def add_data_arguments(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """--data, --val-data, --format and --classes: which data, and what of them."""
    parser.add_argument(
        "--data", metavar="PATH", default="", required=required, help="a folder, data.yaml, annotation file or archive"
    )
    parser.add_argument(
        "--val-data", metavar="PATH", default="", help="evaluate on these; left out: its own val part, or one set apart"
    )
    parser.add_argument("--format", metavar="NAME", default="", help="of the data, where several are there")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="these classes alone, in this order; OLD=NEW also renames one"
    )


def add_recipe_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """--data and what goes with it."""
    group = parser.add_argument_group("from data without a config: all else is chosen from them and from this machine")
    add_data_arguments(group, required)
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=above_zero, metavar="M", help="from the start of the command to its end, evaluation included"
    )
    length.add_argument("--epochs", type=above_zero, metavar="N", help="length of the training")
    group.add_argument("--model", metavar="NAME", default="", help="small, medium, large, or a config by name or path")
    group.add_argument(
        "--weights", metavar="FILE", default="", help="to start from; left out: ImageNet's; none: random weights"
    )
    group.add_argument("--task", choices=("box", "mask", "keypoint"), default="box", help="what is found (box)")
    group.add_argument("--output", metavar="DIR", default="", help="OUTPUT_DIR (output/NAME OF THE DATA)")


def above_zero(text: str) -> float:
    """An argument that is a number above 0, and no larger than any training is long."""
    number = float(text)  # argparse words the ValueError
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    if number > MOST:
        raise argparse.ArgumentTypeError(f"must be at most {MOST:g}, not {text}")
    return number


def recipe_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The parsed arguments, with overrides that stand behind --classes where they belong, and the time of the start."""
    args.started = time.time()
    words, keys = list(args.classes or ()), {key for key, _ in get_cfg().leaves()}
    first = next((index for index, word in enumerate(words) if word in keys), len(words))
    args.classes, args.opts = words[:first], [*words[first:], *args.opts]
    return args


def refuse_without_data(args: argparse.Namespace, named: Sequence[str] = _OF_DATA) -> None:
    """Options that belong to --data mean nothing without it. Raises ValueError that names them."""
    given = [f"--{name.replace('_', '-')}" for name in named if getattr(args, name)] + (
        ["--task"] if getattr(args, "task", "box") != "box" else []
    )
    if given and not args.data:
        raise InvalidValueError(
            f"{', '.join(given)} {'goes' if len(given) == 1 else 'go'} with --data PATH, which is missing; with "
            "--config-file, overrides say the same (SOLVER.MAX_ITER 12ep, MODEL.WEIGHTS FILE, OUTPUT_DIR DIR)"
        )


def request_of(args: argparse.Namespace, ranks: int = 1) -> Request:
    """What the arguments ask for.

    Raises:
        ValueError: two of them name the model.
    """
    from detframe.recipes.plan import Request

    config = getattr(args, "config_file", "")
    if config and args.model:
        raise InvalidValueError(f"--model {args.model} and --config-file {config} both name a model; give one of them")
    return Request(
        path=args.data,
        minutes=args.minutes,
        epochs=args.epochs,
        model=args.model or config,
        weights=args.weights,
        output=args.output,
        task=args.task,
        val_data=args.val_data,
        format=args.format,
        classes=classes_of(args.classes),
        overrides=args.opts,
        started=getattr(args, "started", time.time()),
        ranks=ranks,
    )


def classes_of(words: list[str] | None) -> list[str] | dict[str, str] | None:
    """--classes: names, or a mapping where one of them is OLD=NEW; commas may stand between them too."""
    names = [name.strip() for word in words or () for name in word.split(",") if name.strip()]
    if not names:
        return None
    if not any("=" in name for name in names):
        return names
    pairs = [name.partition("=") for name in names]
    return {old.strip(): new.strip() or old.strip() for old, _, new in pairs}


def first_word(args: argparse.Namespace) -> None:
    """The first sign of life, before anything large is imported."""
    log_to_terminal()
    logger.info("looking at %s", args.data)


def resumed_recipe(request: Request) -> Path | None:
    """The recipe with which a run goes on: that of OUTPUT_DIR; None where there is none yet."""
    from detframe.config.paths import expanded
    from detframe.recipes.plan import RECIPE, output_folder

    path = expanded(output_folder(request)) / RECIPE
    return path if os.path.isfile(path) else None
