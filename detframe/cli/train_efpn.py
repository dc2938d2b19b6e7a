"""Train EFPN in stages, each on the weights of the one before: tools/train_efpn.py and `detframe train-efpn`."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from detframe.cli.arguments import add_launch_arguments, base_parser, local_path
from detframe.cli.common import load_config, run_command
from detframe.cli.errors import run_processes
from detframe.config import ConfigNode, shipped_folder
from detframe.config.paths import expanded
from detframe.errors import MissingFileError
from detframe.storage.folders import joined

logger = logging.getLogger(__name__)

EPILOG = """\
The stages are the YAML files of a folder, in the order of their names. Overrides go to all of them; OUTPUT_DIR names
the folder in which each stage gets one of its own. The detector is what the last stage leaves.

examples:
  on generated pictures:  python datasets/make_shapes.py --small
                          tools/train_efpn.py --stages configs/efpn/faster_rcnn_R_18_EFPN_distilled_shapes_small
  COCO, 8 GPUs:           tools/train_efpn.py --num-gpus 8 --stages configs/efpn/faster_rcnn_R_50_EFPN_distilled
  go on:                  the same command with --resume
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("train-efpn", "Train EFPN: base detector, extension by distillation, head.", EPILOG)
    parser.add_argument(
        "--stages", type=local_path, metavar="DIR", required=True, help="folder with a YAML file for each stage"
    )
    add_launch_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on in the stage, and at the checkpoint, of the last run"
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="overrides of every stage")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    stages = load_stages(args)  # a mistake in the last config is reported before the first stage trains
    return run_processes(functools.partial(train_process, stages, args.resume), args.num_gpus, args.debug)


def train_process(stages: list[ConfigNode], resume: bool) -> None:
    """What each process does: train one stage after the other, in one process group."""
    from detframe.engine.run import train_checked
    from detframe.parallel.joining import process_group

    with process_group(stages[0].MODEL.DEVICE, stages[0].PROCESS_GROUP_TIMEOUT):
        for cfg in stages:
            train_checked(cfg, resume)


def load_stages(args: argparse.Namespace) -> list[ConfigNode]:
    """The configs of the stages, each beginning with the weights that the one before leaves.

    Raises:
        FileNotFoundError: the folder does not exist or holds no YAML file.
    """
    overrides = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    output = overrides.pop("OUTPUT_DIR", "")
    first_weights = overrides.pop("MODEL.WEIGHTS", "")
    rest = [word for pair in overrides.items() for word in pair] + args.opts[len(args.opts) // 2 * 2 :]
    stages: list[ConfigNode] = []
    for file in stage_files(args.stages):
        words = [*rest, "OUTPUT_DIR", joined(output, file.stem)] if output else list(rest)
        if stages:
            words += ["MODEL.WEIGHTS", joined(stages[-1].OUTPUT_DIR, "model_final.pth")]
        elif first_weights:
            words += ["MODEL.WEIGHTS", first_weights]
        stages.append(load_config(argparse.Namespace(config_file=str(file), opts=words), custom_imports=False))
    return stages


def stage_files(folder: str) -> list[Path]:
    """The YAML files of a folder by name; a relative folder may be one of the shipped ones.

    Raises:
        FileNotFoundError: the folder does not exist or holds none.
    """
    own, name = expanded(folder), Path(folder)
    shipped = shipped_folder("configs").parent / name
    for path in (own, shipped):
        if path.is_dir():
            files = sorted(path.glob("*.yaml"))
            if files:
                return files
    there = sorted(str(p.parent.relative_to(shipped_folder("configs").parent)) for p in _shipped_stages())
    raise MissingFileError(f"--stages {folder!r} is no folder with YAML files; shipped ones are {', '.join(there)}")


def _shipped_stages() -> list[Path]:
    return list(shipped_folder("configs").glob("efpn/*/1_*.yaml"))
