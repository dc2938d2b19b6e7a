"""Train a detector: tools/train_net.py and `detframe train`."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

from detframe.cli import evaluate
from detframe.cli.arguments import add_config_arguments, add_launch_arguments, base_parser, parse
from detframe.cli.common import load_config, print_config
from detframe.cli.errors import guard
from detframe.cli.launching import run_processes
from detframe.engine.commands import program_name
from detframe.errors import InvalidValueError

EPILOG = """\
examples:
  one process:     tools/train_net.py --config-file configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml OUTPUT_DIR out
  all of 4 GPUs:   tools/train_net.py --num-gpus 4 --config-file ... OUTPUT_DIR out
  torchrun:        torchrun --nproc-per-node=4 tools/train_net.py --config-file ... OUTPUT_DIR out
  go on:           the same command with --resume
  what a key does: tools/train_net.py --config-file ... --print-config SOLVER.BASE_LR
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("train", "Train a detector from a YAML config, evaluate it and write checkpoints.", EPILOG)
    add_config_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the trained weights, do not train")
    args = parse(parser, argv)
    return guard(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    if args.print_config is not None:
        return print_config(args)
    cfg = load_config(args, custom_imports=False)  # a mistake in it is reported once, before processes start
    if args.eval_only:
        return evaluate.run(args)
    if not (args.config_file or cfg.DATASETS.TRAIN):
        raise InvalidValueError(nothing_to_train())
    return run_processes(functools.partial(train_process, args), args.num_gpus, args.debug)


def nothing_to_train() -> str:
    """What to say to a command that names neither data nor a config."""
    command = program_name("train", "train_net.py")
    return (
        "nothing to train: --config-file is missing, and no override names data sets in DATASETS.TRAIN.\n"
        f"  {command} --config-file configs/quick/faster_rcnn_R_18_FPN_shapes.yaml   trains as a config says\n"
        f"  {command} --help   shows the rest"
    )


def train_process(args: argparse.Namespace) -> None:
    """What each process does: load the config and train."""
    cfg = load_config(args)
    from detframe.engine import train

    train(cfg, resume=args.resume)
