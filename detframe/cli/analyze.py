"""Parameters, multiply-adds, activations and time of every part of a detector: tools/analyze.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from detframe.cli.arguments import add_config_arguments, base_parser, local_path, natural, positive
from detframe.cli.common import load_config, log_to_terminal, run_command
from detframe.cli.media import file_to_write
from detframe.config import ConfigNode
from detframe.files import write_json
from detframe.texts import counted

logger = logging.getLogger(__name__)

EPILOG = """\
Runs the config's detector, with random weights, on images of noise. Without --size they are as large as an image of
480x640 becomes by the config (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST), or a tile (INPUT.TILES.SIZE); the line above the
table says how large. GMAC are multiply-adds of convolutions, matrix products and attention, of all images of a batch
(a convolution of 1x1, 256 to 256 channels, over 100x100 cells has 0.66); deformable sampling, ROIAlign and NMS are not
counted. The cost of the ROI heads depends on the random weights.

examples:
  tools/analyze.py --config-file configs/quick/faster_rcnn_R_18_FPN_shapes.yaml
  tools/analyze.py --config-file configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml --size 800 1216 --batch 2
"""
COCO_CLASSES = 80
TYPICAL_HW = (480, 640)  # of a file, a common size in COCO


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("analyze", "Parameters, multiply-adds, activations and time of a detector's parts.", EPILOG)
    add_config_arguments(parser)
    parser.add_argument(
        "--size",
        nargs=2,
        type=positive,
        metavar=("H", "W"),
        help="of the images, as the model gets them (the config's)",
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images of a step (1)")
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
    size_hw, why = (tuple(args.size), "--size") if args.size else input_size(cfg)
    shape = (args.batch, cfg.INPUT.CHANNELS, *size_hw)
    images = list(torch.randint(0, 256, shape, dtype=torch.uint8).to(model.device))
    height, width = model.preprocessor(images[:1]).tensors.shape[-2:]
    rows = analyze(model, images, args.depth, args.runs)
    padded = f"{counted(args.batch, 'image')} of {_by(size_hw)} pixels ({why}), padded to {_by((height, width))}"
    sys.stdout.write(f"{padded}, on {model.device}\n{table(rows)}\n")
    if file is not None:
        about = {"size_hw": size_hw, "padded_hw": (height, width), "batch": args.batch}
        write_json(file, {**about, "rows": as_dicts(rows)}, indent=1)
    return 0


def input_size(cfg: ConfigNode) -> tuple[tuple[int, int], str]:
    """The height and width of what the model of a config gets in evaluation, and why they are that."""
    from detframe.arrays.resize import resize_shape

    tile, low, high = cfg.INPUT.TILES.SIZE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    file_hw = (tile, tile) if tile else TYPICAL_HW
    what = f"a tile, INPUT.TILES.SIZE {tile}" if tile else f"a file of {_by(TYPICAL_HW)}"
    resizing = f"by INPUT.MIN_SIZE_TEST {low}, MAX_SIZE_TEST {high}" if low else "INPUT.MIN_SIZE_TEST 0 resizes none"
    return resize_shape(file_hw, low, high), f"{what}, {resizing}"


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
