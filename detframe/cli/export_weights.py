"""Write a checkpoint's weights for torchvision or detectron2: tools/export_weights.py and `detframe export-weights`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from detframe.cli.arguments import add_consent_argument, base_parser, local_path
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.media import file_to_write
from detframe.files import atomic_write

logger = logging.getLogger(__name__)

EPILOG = """\
torchvision:  model.load_state_dict(torch.load("out.pth"))   for a model with one class more than the checkpoint
detectron2:   MODEL.WEIGHTS out.pth

--like names the file of torchvision's that the weights once came from: outputs for the background, which torchvision
never uses and detframe does not keep, are then taken from it, and the way there and back is bit for bit.

example: tools/export_weights.py --weights output/run/model_final.pth --to detectron2 --output out.pth
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("export-weights", "Write a checkpoint's weights for torchvision or detectron2.", EPILOG)
    parser.add_argument("--weights", required=True, metavar="FILE", help="a detframe checkpoint")
    parser.add_argument(
        "--to", required=True, choices=["torchvision", "detectron2"], help="the program that will read it"
    )
    parser.add_argument("--output", required=True, type=local_path, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--like", default="", type=local_path, metavar="FILE", help="torchvision's own checkpoint (see below)"
    )
    add_consent_argument(parser)
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    import torch

    from detframe.compat import read_weights
    from detframe.compat.export import to_detectron2, to_torchvision
    from detframe.inference import Detector

    output = file_to_write(args.output)
    detector = Detector.load(args.weights, "cpu", allow_custom_imports=args.allow_custom_imports)
    model = detector.model
    state = model.state_dict()
    if args.to == "torchvision":
        content: Any = to_torchvision(state, read_weights(args.like) if args.like else None)
    else:
        content = {"model": to_detectron2(model), "__author__": "detframe"}
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(output, lambda file: torch.save(content, file))
    classes = detector.meta["class_names"]
    logger.info("%s holds %d tensors for %s; classes in order: %s", output, len(state), args.to, ", ".join(classes))
    return 0
