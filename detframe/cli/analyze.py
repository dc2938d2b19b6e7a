"""Parameters, multiply-adds, activations and time of every part of a detector: tools/analyze.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from detframe.cli.arguments import add_config_arguments, base_parser, local_path, natural, positive
from detframe.cli.common import load_config, log_to_terminal, run_command
from detframe.cli.media import file_to_write
from detframe.files import write_json

logger = logging.getLogger(__name__)

EPILOG = """\
Runs the config's detector, with random weights, on one image of noise. GMAC are multiply-adds of convolutions, matrix
products and attention (a convolution of 1x1, 256 to 256 channels, over 100x100 cells has 0.66); deformable sampling,
ROIAlign and NMS are not counted. The cost of the ROI heads depends on the random weights.

example: tools/analyze.py --config-file configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml --size 800 1216
"""
COCO_CLASSES = 80


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("analyze", "Parameters, multiply-adds, activations and time of a detector's parts.", EPILOG)
    add_config_arguments(parser)
    parser.add_argument("--size", nargs=2, type=positive, default=[800, 1216], metavar=("H", "W"), help="(800 1216)")
    parser.add_argument("--depth", type=natural, default=2, metavar="N", help="levels of modules to show (2)")
    parser.add_argument(
        "--runs", type=positive, default=3, metavar="N", help="timed runs, of which the median counts (3)"
    )
    parser.add_argument("--json", type=local_path, metavar="FILE", help="also write the rows here")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    cfg = load_config(args)
    file = file_to_write(args.json, "--json") if args.json else None
    import torch

    from detframe.modeling import build_detection_model
    from detframe.modeling.analysis import analyze, as_dicts, table

    if cfg.MODEL.NUM_CLASSES == 0:
        cfg = cfg.changed([("MODEL.NUM_CLASSES", COCO_CLASSES)])
        logger.info("MODEL.NUM_CLASSES is 0; counted with %d, as COCO has", COCO_CLASSES)
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    image = torch.randint(0, 256, (cfg.INPUT.CHANNELS, *args.size), dtype=torch.uint8).to(model.device)
    rows = analyze(model, [image], args.depth, args.runs)
    sys.stdout.write(table(rows) + "\n")
    if file is not None:
        write_json(file, {"size_hw": args.size, "rows": as_dicts(rows)}, indent=1)
    return 0
