"""Draw training images with their targets, as the model sees them: tools/visualize_data.py."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from detframe.cli.arguments import add_config_arguments, base_parser, positive
from detframe.cli.common import load_config, log_to_terminal, run_command
from detframe.cli.media import check_output, write_image
from detframe.files import safe_name

logger = logging.getLogger(__name__)

EPILOG = """\
The images are resized, flipped and jittered as in training; boxes, masks and keypoints are those that the losses get.

example: tools/visualize_data.py --config-file configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml --output look
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("visualize-data", "Draw augmented training images with their targets.", EPILOG)
    add_config_arguments(parser)
    parser.add_argument("--output", metavar="DIR", default="", help="folder for the drawings (OUTPUT_DIR/data)")
    parser.add_argument("--num-images", type=positive, default=16, metavar="N", help="how many (16)")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    cfg = load_config(args)
    output = Path(args.output or Path(cfg.OUTPUT_DIR) / "data")
    check_output(output)
    from detframe.data import build_train_loader
    from detframe.engine.inputs import file_names, load_train_records
    from detframe.visualization import training_image

    records = load_train_records(cfg)
    find = file_names(records)
    with closing(build_train_loader(cfg.changed([("DATALOADER.CACHE_RAM", 0.0)]), records)) as loader:
        samples = chain.from_iterable(zip(images, targets, strict=True) for images, targets in loader)
        for number, (image, target) in enumerate(islice(samples, args.num_images), 1):
            file = Path(find(target["image_id"]))
            picture = training_image(image, target, records.metadata.class_names, file.name)
            write_image(output / f"{number:04d}_{safe_name(file.stem)}.jpg", picture)
    logger.info("%d drawings are in %s", args.num_images, output)
    return 0
