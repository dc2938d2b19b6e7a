"""Make another program's checkpoint one of detframe's: tools/import_weights.py and `detframe import-weights`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detframe.cli.arguments import add_config_arguments, base_parser, local_path
from detframe.cli.common import load_config, log_to_terminal, run_command
from detframe.cli.media import file_to_write
from detframe.config import ConfigNode
from detframe.errors import InvalidValueError

if TYPE_CHECKING:
    from detframe.data import Metadata

logger = logging.getLogger(__name__)

EPILOG = """\
The file that comes out is enough for predict, evaluate and Detector.load, and as MODEL.WEIGHTS of a training, which
finds its classes by their names. --config-file may be a config of detectron2, maskrcnn-benchmark or FCOS.

The names of the classes: those of --classes, in the order of the labels; else those of the data set --data of the
catalog; else COCO's, where the model has 80 classes, 90 (category ids) or, with keypoints, one.

example: tools/import_weights.py --config-file e2e_faster_rcnn_R_50_FPN_1x.yaml --weights model_final.pth \\
    --output model.pth
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("import-weights", "Make another program's checkpoint one of detframe's.", EPILOG)
    add_config_arguments(parser)
    parser.add_argument("--weights", default="", metavar="FILE", help="the checkpoint; left out, the config's")
    parser.add_argument("--output", required=True, type=local_path, metavar="FILE", help="the file to write")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="names of the classes, label 1 first")
    parser.add_argument("--data", default="", metavar="NAME", help="a data set of the catalog that has these classes")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    from detframe.checkpoint import Checkpoint, describe
    from detframe.compat import load_weights
    from detframe.modeling import build_detection_model

    output = file_to_write(args.output)
    cfg = load_config(args).clone()
    cfg.defrost()
    weights = args.weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise InvalidValueError("whose weights? Name a file with --weights, or in the config with MODEL.WEIGHTS")
    metadata = _metadata(args, cfg)
    cfg.MODEL.NUM_CLASSES = cfg.MODEL.NUM_CLASSES or metadata.num_classes
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    if metadata.num_classes != cfg.MODEL.NUM_CLASSES:
        raise InvalidValueError(f"{metadata.num_classes} names for the {cfg.MODEL.NUM_CLASSES} classes of the config")
    model = build_detection_model(cfg)
    report = load_weights(model, weights)
    logger.info("%s", report.table())
    report.check_complete()
    output.parent.mkdir(parents=True, exist_ok=True)
    Checkpoint(model.state_dict(), {**describe(cfg, metadata), "iteration": 0, "metrics": {}}).write(output)
    logger.info("%s is a checkpoint of detframe; its classes: %s", output, ", ".join(metadata.class_names[:10]))
    return 0


def _metadata(args: argparse.Namespace, cfg: ConfigNode) -> Metadata:
    from detframe.data import Metadata, load_records
    from detframe.data.coco_categories import coco_labels

    if args.classes:
        return Metadata("--classes", tuple(args.classes), tuple(range(1, len(args.classes) + 1)))
    if args.data:
        return load_records([args.data], cfg.DATASETS.CATALOG, on_missing="skip").metadata
    classes = cfg.MODEL.NUM_CLASSES
    if classes in (80, 90) or (classes == 1 and cfg.MODEL.KEYPOINT_ON):
        labels = coco_labels(classes)
        return Metadata("coco", tuple(name for _, name in labels), tuple(number for number, _ in labels))
    number = f"{classes} " if classes else ""
    raise InvalidValueError(
        f"what are the names of the {number}classes? Give them with --classes, label 1 first, or name a data set of "
        "the catalog with --data"
    )
