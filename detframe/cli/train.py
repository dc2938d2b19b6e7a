"""Train a detector: tools/train_net.py and `detframe train`."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from detframe.cli import evaluate
from detframe.cli.arguments import add_config_arguments, add_launch_arguments, base_parser, parse
from detframe.cli.common import load_config, print_config
from detframe.cli.errors import guard, run_processes
from detframe.cli.recipe import (
    add_recipe_arguments,
    first_word,
    recipe_arguments,
    refuse_without_data,
    request_of,
    resumed_recipe,
)
from detframe.config import ConfigNode, get_cfg, read_config
from detframe.config.paths import expanded
from detframe.engine.commands import program_name
from detframe.errors import InvalidValueError

EPILOG = """\
examples:
  from a folder:   detframe train --data raccoons/ --minutes 10
  by a config:     tools/train_net.py --config-file configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml OUTPUT_DIR out
  all of 4 GPUs:   tools/train_net.py --num-gpus 4 --config-file ... OUTPUT_DIR out
  torchrun:        torchrun --nproc-per-node=4 tools/train_net.py --config-file ... OUTPUT_DIR out
  go on:           the same command with --resume
  what a key does: tools/train_net.py --config-file ... --print-config SOLVER.BASE_LR
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser(
        "train", "Train a detector on data or by a YAML config, evaluate it, write checkpoints.", EPILOG
    )
    add_config_arguments(parser)
    add_recipe_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the trained weights, do not train")
    args = recipe_arguments(parse(parser, argv))
    return guard(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    refuse_without_data(args)
    if args.data:
        return _run_on_data(args)
    if args.print_config is not None:
        return print_config(args)
    cfg = load_config(args, custom_imports=False)  # once, before processes start, which get it as it is
    if args.eval_only:
        return evaluate.run(cfg, args)
    if not (args.config_file or cfg.DATASETS.TRAIN):
        raise InvalidValueError(nothing_to_train())
    return run_processes(functools.partial(train_process, cfg, args.resume), args.num_gpus, args.debug)


def nothing_to_train() -> str:
    """What to say to a command that names neither data nor a config."""
    command = program_name("train", "train_net.py")
    return (
        "nothing to train: --data and --config-file are missing, and no override names data sets in DATASETS.TRAIN.\n"
        f"  {command} --data PATH   trains on a folder of images with labels, and chooses the rest\n"
        f"  {command} --config-file configs/quick/faster_rcnn_R_18_FPN_shapes.yaml   trains as a config says\n"
        f"  {command} --help   shows more"
    )


def train_process(cfg: ConfigNode, resume: bool) -> None:
    """What each process does with the config that was read and checked."""
    from detframe.engine.run import train_checked

    train_checked(cfg, resume)


# ---------------------------------------------------------------------------------------------- from data
def _run_on_data(args: argparse.Namespace) -> int:
    wrong = [name for name in ("eval_only", "print_config") if getattr(args, name) not in (None, False)]
    if wrong:
        option = f"--{wrong[0].replace('_', '-')}"
        raise InvalidValueError(
            f"{option} goes with a config, not with --data: `detframe configure --data {args.data} > my.yaml` writes "
            f"one, and a training leaves recipe.yaml in OUTPUT_DIR"
        )
    return run_processes(functools.partial(train_on_data, args), args.num_gpus, args.debug)


def train_on_data(args: argparse.Namespace) -> None:
    """What each process does: the first chooses, and all train with the recipe that it has written."""
    from detframe.parallel.joining import find_membership, process_group

    member = find_membership(os.environ)
    if member is None or member.rank == 0:
        first_word(args)
        _choose_and_train(args, 1 if member is None else member.world_size)
        return
    with process_group(*_joining(args)):
        _follow(args)


def _choose_and_train(args: argparse.Namespace, ranks: int) -> None:
    """Rank 0, before it joins the others, who wait for it: they would hang if it asked them for something alone."""
    from detframe.engine.relaunch import earlier_attempt
    from detframe.parallel.collectives import broadcast_object
    from detframe.parallel.joining import attempt_in_work, process_group
    from detframe.recipes.plan import make_plan, output_folder
    from detframe.recipes.writing import check_output, written

    request = request_of(args, ranks)
    folder = output_folder(request)
    again = earlier_attempt(expanded(folder), attempt_in_work()) is not None
    old = resumed_recipe(request) if args.resume or again else None
    check_output(folder)
    with written(make_plan(request)) if old is None else nullcontext(old) as recipe, process_group(*_joining(args)):
        broadcast_object((str(recipe), old is not None))
        _train(args, recipe, going_on=old is not None)


def _follow(args: argparse.Namespace) -> None:
    from detframe.parallel.collectives import broadcast_object

    recipe, going_on = broadcast_object(("", False))
    _train(args, Path(recipe), going_on)


def _train(args: argparse.Namespace, recipe: Path, going_on: bool) -> None:
    """Train with a recipe, in which the overrides stand already unless the run goes on."""
    train_process(read_config(recipe, args.opts if going_on else ()), args.resume)


def _joining(args: argparse.Namespace) -> tuple[str, float]:
    """MODEL.DEVICE and PROCESS_GROUP_TIMEOUT with the overrides."""
    cfg, given = get_cfg(), zip(args.opts[::2], args.opts[1::2], strict=False)
    cfg.merge_from_list(
        [word for pair in given if pair[0] in ("MODEL.DEVICE", "PROCESS_GROUP_TIMEOUT") for word in pair]
    )
    return cfg.MODEL.DEVICE, cfg.PROCESS_GROUP_TIMEOUT
