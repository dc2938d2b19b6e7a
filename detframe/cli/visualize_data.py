"""Draw training images with their targets, as the model sees them: tools/visualize_data.py."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import add_config_arguments, base_parser, local_path, positive
from detframe.cli.common import load_config, log_to_terminal, run_command
from detframe.cli.media import check_output, write_image
from detframe.cli.recipe import add_data_arguments, classes_of, first_word, recipe_arguments, refuse_without_data
from detframe.files import safe_name
from detframe.storage import refuse_address

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from detframe.config import ConfigNode
    from detframe.data.transforms import Stage
    from detframe.structures import Target

logger = logging.getLogger(__name__)

EPILOG = """\
The images are resized, flipped and jittered as in training; boxes, masks and keypoints are those that the losses get.

With --steps, each picture shows one image as it is read and after every transform that happened to it.

examples:
  tools/visualize_data.py --data raccoons/ --output look      as `detframe train --data` would show them
  tools/visualize_data.py --config-file configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml --output look
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("visualize-data", "Draw augmented training images with their targets.", EPILOG)
    add_data_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument(
        "--output", type=local_path, metavar="DIR", default="", help="folder for the drawings (OUTPUT_DIR/data)"
    )
    parser.add_argument("--steps", action="store_true", help="each image after every transform, side by side")
    parser.add_argument("--num-images", type=positive, default=16, metavar="N", help="how many (16)")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    cfg = _config(recipe_arguments(args))
    if not args.output:
        refuse_address(cfg.OUTPUT_DIR, "give one for the drawings (--output)")
    output = Path(args.output or Path(cfg.OUTPUT_DIR) / "data")
    check_output(output)
    from detframe.data import build_train_loader
    from detframe.engine.inputs import file_names, load_train_records

    records = load_train_records(cfg)
    find, names = file_names(records), records.metadata.class_names
    alone = cfg.changed([("DATALOADER.CACHE_RAM", 0.0), ("INPUT.DECODE", "exact" if args.steps else cfg.INPUT.DECODE)])
    with closing(build_train_loader(alone, records)) as loader:
        if args.steps:
            pictures = (_steps(loader.dataset.stages(position), names, find) for position in count())
        else:
            samples = chain.from_iterable(zip(images, targets, strict=True) for images, targets in loader)
            pictures = (_whole(image, target, names, find) for image, target in samples)
        for number, (name, picture) in enumerate(islice(pictures, args.num_images), 1):
            write_image(output / f"{number:04d}_{safe_name(name)}.jpg", picture)
    logger.info("%d drawings are in %s", args.num_images, output)
    return 0


def _config(args: argparse.Namespace) -> ConfigNode:
    """That of --config-file, or with --data the one that a training on them would choose, its catalog written."""
    if not args.data:
        refuse_without_data(args, ("val_data", "format", "classes"))
        return load_config(args)
    first_word(args)
    from detframe.recipes.plan import Request, make_plan, output_folder
    from detframe.recipes.writing import check_output as check_catalog
    from detframe.recipes.writing import write_catalog

    request = Request(
        path=args.data,
        model=args.config_file,
        val_data=args.val_data,
        format=args.format,
        classes=classes_of(args.classes),
        overrides=args.opts,
        started=args.started,
    )
    check_catalog(output_folder(request))
    plan = make_plan(request)
    write_catalog(plan)
    return plan.config


def _whole(image: Tensor, target: Target, names: Sequence[str], find: Callable[[Any], str]) -> tuple[str, np.ndarray]:
    """The name of a drawing, and an image with what the losses get."""
    from detframe.visualization import training_image

    file = Path(find(target["image_id"]))
    return file.stem, training_image(image, target, names, file.name)


def _steps(stages: Iterator[Stage], names: Sequence[str], find: Callable[[Any], str]) -> tuple[str, np.ndarray]:
    """The name of a drawing, and an image as it is read and after each transform that happened, side by side."""
    from detframe.visualization import contact_sheet, training_image

    drawn = list(stages)
    file = Path(find(drawn[0].target["image_id"]))
    captions = [f"{number} {stage.name}" if stage.name else file.name for number, stage in enumerate(drawn)]
    pictures = [
        training_image(stage.image, stage.target, names, caption)
        for stage, caption in zip(drawn, captions, strict=True)
    ]
    return file.stem, contact_sheet(pictures, columns=3)
