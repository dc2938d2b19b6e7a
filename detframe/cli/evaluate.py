"""Evaluate a trained detector: tools/test_net.py and `detframe evaluate`."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Sequence

from detframe.cli.arguments import add_config_arguments, add_consent_argument, add_launch_arguments, base_parser, parse
from detframe.cli.common import load_config, print_config, trained_weights
from detframe.cli.errors import guard, run_processes
from detframe.config import ConfigNode, import_carried
from detframe.config.check import validate
from detframe.config.paths import config_beside

logger = logging.getLogger(__name__)

EPILOG = """\
The weights are --weights (or the override MODEL.WEIGHTS); without them model_best.pth, model_final.pth or the newest
checkpoint in OUTPUT_DIR. A checkpoint carries the config of its training, which holds where no --config-file is given,
under the overrides; results then go beside the weights where those lie in the folder of their run, else into
OUTPUT_DIR. An exported file carries its config too: without DATASETS.TEST it is evaluated on the data sets that the
training was evaluated on, and what is fixed in it (MODEL.*, INPUT.*, NMS) cannot be overridden.

examples:
  detframe evaluate --weights out/model_best.pth
  tools/test_net.py --config-file out/config.yaml --weights out/model_best.pth DATASETS.TEST my_test
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("evaluate", "Evaluate trained weights on the data sets of DATASETS.TEST.", EPILOG)
    add_config_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        default="",
        help="the checkpoint to evaluate, or an exported file: model.onnx, model.xml, model.pt2",
    )
    add_consent_argument(parser)
    args = parse(parser, argv)
    if args.weights:
        args.opts += ["MODEL.WEIGHTS", args.weights]
    return guard(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    return print_config(args) if args.print_config is not None else run(_config(args), args)


def _config(args: argparse.Namespace) -> ConfigNode:
    """The config of the arguments; without --config-file that in the checkpoint, with the overrides."""
    cfg = load_config(args, custom_imports=False)
    if args.config_file:
        return cfg
    from detframe.backends import is_exported
    from detframe.checkpoint import Checkpoint
    from detframe.compat import read_weights
    from detframe.inference.carried import forget_machine

    weights = trained_weights(cfg)
    content = {} if is_exported(weights) else read_weights(weights)
    if not Checkpoint.recognise(content):
        return cfg
    carried = Checkpoint.of(content, weights).config()
    import_carried(carried, weights, args.allow_custom_imports)
    forget_machine(carried)
    carried.CUSTOM_IMPORTS = ()
    run_config = config_beside(weights)
    if run_config:
        carried.OUTPUT_DIR = str(run_config.parent)
    carried.merge_from_list(args.opts)
    validate(carried)
    carried.freeze()
    return carried


def run(cfg: ConfigNode, args: argparse.Namespace) -> int:
    """Evaluate what the config was trained to, in as many processes as the arguments ask for."""
    cfg.defrost()
    cfg.MODEL.WEIGHTS = trained_weights(cfg)
    cfg.freeze()
    consent = getattr(args, "allow_custom_imports", False)
    return run_processes(functools.partial(evaluate_process, cfg, consent), args.num_gpus, args.debug)


def evaluate_process(cfg: ConfigNode, allow_custom_imports: bool) -> None:
    """What each process does."""
    from detframe.engine import evaluate

    evaluate(cfg, allow_custom_imports)
