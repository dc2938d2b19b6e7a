"""Write a detector as a file for other runtimes: `detframe export` and tools/export.py."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence

from detframe.backends import is_exported
from detframe.cli.arguments import add_consent_argument, base_parser, local_path, positive
from detframe.cli.common import log_to_terminal, run_command
from detframe.config.paths import expanded
from detframe.engine.terminal import RESULT
from detframe.errors import InvalidValueError
from detframe.parallel.stopping import StopSignals

logger = logging.getLogger(__name__)
DYNAMIC = "dynamic"

EPILOG = """\
The file holds the whole detector: normalisation, padding, network, decoding and NMS. Before it is left behind, it is
run in its own runtime on other batches and sizes, on blank images and on validation images, and compared with PyTorch;
FILE.report.md and FILE.report.json beside it say how well they agree. If they do not, nothing is written, and the exit
code is 1. docs/export.md describes inputs and outputs.

examples:
  detframe export --weights output/run/model_best.pth --output model.onnx
  detframe export --weights model_best.pth --output model.xml --size 480 640 --batch 1
  detframe export --weights model_best.pth --output model.onnx --data photos/val --images 500
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("export", "Write a detector as a file for onnxruntime, OpenVINO or torch.", EPILOG)
    parser.add_argument("--weights", required=True, metavar="FILE", help="a detframe checkpoint")
    parser.add_argument(
        "--output", required=True, type=local_path, metavar="FILE", help="the file to write: .onnx, .xml or .pt2"
    )
    parser.add_argument("--format", metavar="NAME", help="onnx, openvino or torch; left out: by the ending of FILE")
    parser.add_argument("--precision", default="fp32", metavar="NAME", help="fp32 (the default), fp16 or int8")
    parser.add_argument(
        "--size",
        nargs="+",
        default=[DYNAMIC],
        metavar=("H", "W"),
        help="height and width of every image, for a file of one size; dynamic (the default): any",
    )
    parser.add_argument(
        "--batch",
        default=DYNAMIC,
        metavar="N",
        help="images at once, for a file of one batch size; dynamic: any number",
    )
    parser.add_argument(
        "--tolerance",
        nargs=2,
        type=_tolerance,
        metavar=("AP", "PX"),
        help="what may differ: AP, and pixels and scores (0.1 0.001 in fp32; 1 AP in other precisions)",
    )
    parser.add_argument(
        "--data", default="", metavar="NAME_OR_PATH", help="validation data; left out: DATASETS.TEST of the checkpoint"
    )
    parser.add_argument(
        "--images", type=positive, default=100, metavar="N", help="validation images that are used (100)"
    )
    add_consent_argument(parser)
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    size, batch = size_of(args.size), batch_of(args.batch)
    weights = expanded(args.weights)
    if is_exported(weights):
        raise InvalidValueError(
            f"--weights {args.weights} is an exported file; an export begins with a checkpoint, as model_best.pth"
        )
    from detframe.export import Plan, Tolerance
    from detframe.inference import Detector

    output = expanded(args.output)
    how = {
        "format": args.format,
        "precision": args.precision,
        "size": size,
        "batch": batch,
        "tolerance": None if args.tolerance is None else Tolerance(*args.tolerance),
    }
    Plan.of(output, **how)  # before anything is read
    detector = Detector.load(weights, "cpu", allow_custom_imports=args.allow_custom_imports)
    signals = StopSignals()
    with signals.handled(), signals.at_once():  # also on SIGTERM nothing half-written is left
        report = detector.export(output, data=args.data, num_images=args.images, weights=weights, **how)
    logger.info("%s\nwritten: %s and %s.report.md", report.summary(), output, output, extra=RESULT)
    return 0


def size_of(words: Sequence[str]) -> tuple[int, int] | None:
    """--size: two numbers, or "dynamic".

    Raises:
        ValueError: anything else.
    """
    if list(words) == [DYNAMIC]:
        return None
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        raise InvalidValueError(
            f"--size takes a height and a width, as in --size 480 640, or dynamic; not {' '.join(words)}"
        )
    return int(words[0]), int(words[1])


def batch_of(word: str) -> int | None:
    """--batch: a number, or "dynamic".

    Raises:
        ValueError: anything else.
    """
    if word == DYNAMIC:
        return None
    if not word.isdecimal():
        raise InvalidValueError(f"--batch takes a number of images, or dynamic; not {word}")
    return int(word)


def _tolerance(text: str) -> float:
    number = float(text)  # argparse words the ValueError
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text}")
    return number
