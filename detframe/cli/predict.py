"""Detect in images and videos with a trained checkpoint: tools/predict.py and `detframe predict`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.cli.arguments import add_consent_argument, base_parser, local_path, positive
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.crops import CropNames
from detframe.cli.media import check_output
from detframe.cli.predictor import Choices, Predictor
from detframe.cli.sources import Source, find_sources, root_of
from detframe.config.keys import all_keys
from detframe.engine.terminal import shown_on
from detframe.errors import InvalidValueError, UnknownNameError
from detframe.own_drawings import RESULTS
from detframe.parallel.stopping import StopSignals, exit_code
from detframe.registry import nearest

if TYPE_CHECKING:
    from detframe.inference.tiling import Tiles

logger = logging.getLogger(__name__)

EPILOG = """\
In the folder --output:
  the images (same names, below the folder common to all inputs) and videos (.mp4) with what was found drawn on them;
  predictions.json  COCO results: image_id, category_id, bbox (x, y, width, height), score; every detection of the model
  images.json       the id and file of each image (and frame of a video), and the names of the categories
  coco/, yolo/, ...  with --format, files that other programs import
  frames/           with --save-frames, the frames of videos
  crops/CLASS/...   with --save-crops, each object as an image of its own, named after its image and its number there
Only what scores at least --score is drawn, cut out, and in the files of --format; predictions.json holds all scores.

Videos are written as browsers play them (H.264), with the times of the source. Of a camera or live stream, frames that
come faster than they can be predicted are left out, and counted. Ctrl-C ends the work; what was begun is finished, and
all files are whole; a second one ends it at once.

An image or video that cannot be read is named in the log, counted, and listed in images.json under "left_out"; the
others are predicted. The exit code is 0 if anything could be predicted, else 1; with --strict it is 1 if anything was
left out, broke off, or could not be drawn. Files of an earlier prediction in --output stay where no new ones replace
them; the log says so.

examples: tools/predict.py --weights out/model_best.pth --input photos/ --output found
          tools/predict.py --weights out/model_best.pth --input 0 --seconds 60 --output found
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("predict", "Detect in images and videos with a trained checkpoint.", EPILOG)
    _add_inputs(parser.add_argument_group("what is looked at"))
    _add_model(parser.add_argument_group("how"))
    _add_outputs(parser.add_argument_group("what is written"))
    return run_command(parser, argv, run)


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        metavar="PATH",
        required=True,
        nargs="+",
        help="folders, images, videos, patterns such as 'a/*.jpg', addresses (http, https, rtsp, rtmp, ...), or the "
        "number of a camera (0)",
    )
    group.add_argument("--max-frames", type=positive, metavar="N", help="end each video and stream after N frames")
    group.add_argument("--seconds", type=_seconds, metavar="S", help="end each video and stream after S seconds")
    group.add_argument("--strict", action="store_true", help="end with 1 if any input was left out or not drawn")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights", metavar="FILE", required=True, help="checkpoint of detframe, or a file exported from one"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    group.add_argument(
        "--batch-size", type=positive, metavar="N", help="images per forward pass (8; of cameras and live streams 1)"
    )
    group.add_argument(
        "--nms",
        choices=list(all_keys()["TEST.NMS"].choices),
        help="NMS of the detections, in place of the config's (TEST.NMS)",
    )
    group.add_argument(
        "--augment",
        nargs="*",
        metavar="KEY=VALUE",
        help="predict several views of each image and merge what is found: as TEST.AUG of the config says (else the "
        "image and its mirror image), with these of its keys changed, as MIN_SIZES=600,1000 MERGE=wbf",
    )
    group.add_argument(
        "--tiles",
        nargs="*",
        metavar="SIZE",
        help="cut images into tiles of SIZE pixels, predict these and merge what is found over their seams, for small "
        "objects in large images; with keys of INPUT.TILES as OVERLAP=0.25; without SIZE as in the training; 'off': "
        "whole images, where the training was on tiles",
    )
    add_consent_argument(group)


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", type=local_path, metavar="DIR", required=True, help="folder for all files")
    group.add_argument(
        "--score",
        "--score-threshold",
        dest="score_threshold",
        type=_fraction,
        default=0.5,
        metavar="S",
        help="draw, cut out and write into the files of --format from this score on (0.5)",
    )
    group.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes, everywhere")
    group.add_argument("--no-labels", action="store_true", help="draw boxes without names and scores")
    group.add_argument("--no-drawings", action="store_true", help="write no images and videos with drawings")
    group.add_argument("--save-crops", action="store_true", help="save each object as an image: crops/CLASS/...")
    group.add_argument(
        "--format",
        nargs="+",
        type=_format,
        default=[],
        metavar="NAME",
        help="also write what was found as annotations for other programs, to be corrected there: coco, yolo, voc, "
        "csv, labelme, labelstudio; several may be named",
    )
    group.add_argument(
        "--save-frames", action="store_true", help="save the frames of videos as images, under the names in --format"
    )


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return number


def _format(text: str) -> str:
    from detframe.inference.writers import FORMATS

    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"there is no format {text!r}; {nearest(text, list(FORMATS))}")
    return text


_YEAR = 366 * 24 * 3600  # seconds


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number <= _YEAR:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most a year ({_YEAR}), not {text}")
    return number


def _augment(words: Sequence[str] | None) -> dict[str, str] | None:
    """The keys of TEST.AUG that words as KEY=VALUE change; None: nothing was said of it."""
    if words is None:
        return None
    return _settings(words, "--augment takes KEY=VALUE, keys of TEST.AUG as MERGE=wbf")


def _tiles(words: Sequence[str] | None) -> Tiles:
    """What --tiles asks for, as `Detector.predict` takes it."""
    if not words:
        return None if words is None else True
    if list(words) == ["off"]:
        return False
    if "off" in words[:1]:
        raise InvalidValueError(f"--tiles off leaves images whole and stands alone, not as --tiles {' '.join(words)}")
    size = {"SIZE": int(words[0])} if words[0].isdecimal() else {}
    rest = words[1:] if size else words
    usage = "--tiles takes SIZE, and KEY=VALUE, keys of INPUT.TILES as OVERLAP=0.25, or 'off'"
    return {**size, **_settings(rest, usage, "; SIZE is a whole number of pixels above 0")}


def _settings(words: Sequence[str], usage: str, more: str = "") -> dict[str, str]:
    """The values in words as KEY=VALUE, by key."""
    pairs = [word.partition("=") for word in words]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise InvalidValueError(f"{usage}, not {wrong[0].strip()!r}{more}")
    return {key.strip().upper(): value for key, _, value in pairs}


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say; returns the exit code."""
    terminal = log_to_terminal()
    output, augment, tiles = Path(args.output), _augment(args.augment), _tiles(args.tiles)
    check_output(output)
    sources = find_sources(args.input, output)
    if (output / RESULTS).is_file():
        logger.info(
            "%s holds an earlier prediction: its files of the same names are replaced, its others stay beside the new "
            "ones; name another --output to keep them apart",
            output,
        )
    from detframe.inference import Detector
    from detframe.inference.writers import check_names

    for kind in args.format:
        check_names(kind, [source.listed for source in sources if source.kind == "image"])

    detector = Detector.load(args.weights, args.device, allow_custom_imports=args.allow_custom_imports)
    detector.check(args.nms, augment, tiles)  # a mistake there is one before anything is written
    choices = Choices(
        score=args.score_threshold,
        classes=_known(args.classes, detector.class_names),
        labels=not args.no_labels,
        drawings=not args.no_drawings,
        crops=args.save_crops,
        formats=list(dict.fromkeys(args.format)),
        root=root_of(sources),
        frames=args.save_frames,
        batch_size=args.batch_size,
        how={"nms": args.nms, "augment": augment, "tiles": tiles},
        tiled=detector.uses_tiles(tiles),
        max_frames=args.max_frames,
        seconds=args.seconds,
    )
    names = CropNames(output, [source.target for source in sources])
    with contextlib.ExitStack() as stack:
        stack.enter_context(shown_on(terminal) if terminal is not None else contextlib.nullcontext())
        signals = stack.enter_context(StopSignals().handled())
        predictor = stack.enter_context(Predictor(detector, output, choices, names, lambda: bool(signals.received)))
        left = _predict(predictor, sources)
    code = predictor.report(args.strict)
    if signals.received:
        logger.warning("%s: stopped; all files are whole", signal.Signals(signals.received).name)
    return exit_code(signals.received) if signals.received and left else code


def _predict(predictor: Predictor, sources: Sequence[Source]) -> bool:
    """Predict all sources; returns whether some of it was left undone, as a signal came."""
    images = [source for source in sources if source.kind == "image"]
    predictor.images(images)
    left = predictor.stopped() and predictor.num_images + len(predictor.left_out) < len(images)
    for source in sources:
        if source.kind != "image":
            left = left or predictor.stopped() or predictor.video(source)
    return left


def _known(names: Sequence[str] | None, class_names: Sequence[str]) -> Sequence[str] | None:
    """The names of --classes.

    Raises:
        KeyError: the detector has no such class.
    """
    for name in names or ():
        if name not in class_names:
            raise UnknownNameError(f"--classes: the detector has no class {name!r}; {nearest(name, [*class_names])}")
    return names
