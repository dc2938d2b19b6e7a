"""Detect in images and videos with a trained checkpoint: tools/predict.py and `detframe predict`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import add_consent_argument, base_parser, positive
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.media import (
    VideoWriter,
    check_output,
    find_inputs,
    output_paths,
    write_image,
)
from detframe.config.keys import all_keys
from detframe.engine.terminal import RESULT
from detframe.errors import FileAccessError, InvalidValueError, UserError
from detframe.files import JsonList, is_full_disk

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from detframe.inference import Detector
    from detframe.structures import Prediction

logger = logging.getLogger(__name__)

EPILOG = """\
In the folder --output:
  the images (same names, below the folder common to all inputs) and videos (.mp4) with what was found drawn on them;
  predictions.json  COCO results: image_id, category_id, bbox (x, y, width, height), score; every detection of the model
  images.json       the id and file of each image (and frame of a video), and the names of the categories
Only what scores at least --score-threshold is drawn; predictions.json is not cut.

An image or video that cannot be read is named in the log, counted, and listed in images.json under "left_out"; the
others are predicted. The exit code is 0 if anything could be predicted, else 1; with --strict it is 1 if anything was
left out, broke off, or could not be drawn.

example: tools/predict.py --weights out/model_best.pth --input photos/ --output found
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("predict", "Detect in images and videos with a trained checkpoint.", EPILOG)
    parser.add_argument(
        "--weights", metavar="FILE", required=True, help="checkpoint of detframe; nothing else is needed"
    )
    parser.add_argument(
        "--input",
        metavar="PATH",
        required=True,
        nargs="+",
        help="folders, files, videos, or patterns such as 'a/*.jpg'",
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for drawings and JSON")
    parser.add_argument(
        "--score-threshold", type=_fraction, default=0.5, metavar="S", help="draw from this score on (0.5)"
    )
    parser.add_argument("--no-labels", action="store_true", help="draw boxes without names and scores")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images per forward pass (8)")
    parser.add_argument(
        "--nms",
        choices=list(all_keys()["TEST.NMS"].choices),
        help="NMS of the detections, in place of the config's (TEST.NMS)",
    )
    parser.add_argument(
        "--augment",
        nargs="*",
        metavar="KEY=VALUE",
        help="predict several views of each image and merge what is found: as TEST.AUG of the config says (else the "
        "image and its mirror image), with these of its keys changed, as MIN_SIZES=600,1000 MERGE=wbf",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--strict", action="store_true", help="end with 1 if any input was left out or not drawn")
    add_consent_argument(parser)
    return run_command(parser, argv, run)


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return number


def _augment(words: Sequence[str] | None) -> dict[str, str] | None:
    """The keys of TEST.AUG that words as KEY=VALUE change; None: nothing was said of it."""
    if words is None:
        return None
    pairs = [word.partition("=") for word in words]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise InvalidValueError(f"--augment takes KEY=VALUE, keys of TEST.AUG as MERGE=wbf, not {wrong[0]!r}")
    return {key.strip().upper(): value for key, _, value in pairs}


@dataclass
class Picture:
    """One image or frame on its way through the detector."""

    image: Tensor  # uint8 (3, H, W), RGB
    file_name: str
    target: Path  # of its drawing; that of the whole video for a frame
    frame: int | None = None


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say; returns the exit code."""
    log_to_terminal()
    how = {"batch_size": args.batch_size, "nms": args.nms, "augment": _augment(args.augment)}
    check_output(Path(args.output))
    inputs = find_inputs(args.input)
    targets = output_paths(inputs, Path(args.output))
    from detframe.inference import Detector
    from detframe.inference.inputs import is_video
    from detframe.visualization import draw_instances

    detector = Detector.load(args.weights, args.device, allow_custom_imports=args.allow_custom_imports)
    detector.augmented(how["augment"])  # a mistake there is one before anything is written
    pairs = list(zip(inputs, targets, strict=True))
    draw = partial(draw_instances, score_threshold=args.score_threshold, labels=not args.no_labels)
    with Predictor(detector, Path(args.output), args.score_threshold, how, draw) as predictor:
        predictor.images([pair for pair in pairs if not is_video(pair[0])])
        for source, target in pairs:
            if is_video(source):
                predictor.video(source, target)
    return predictor.report(args.strict)


class Predictor:
    """Carries a detector over many images and videos, and writes drawings and JSON; memory holds a few batches."""

    def __init__(
        self,
        detector: Detector,
        output: Path,
        score_threshold: float,
        how: Mapping[str, Any],
        draw: Callable[..., np.ndarray],
    ) -> None:
        """Args:
        how: arguments of `Detector.predict_iter`.
        """
        self.detector = detector
        self.draw = draw
        self.output = output
        self.score_threshold = score_threshold
        self.how = dict(how)
        self.num_images = self.num_drawn = 0
        self.left_out: list[dict[str, str]] = []  # file_name, error
        self.incomplete: list[str] = []  # videos that broke off
        self.undrawn: list[Path] = []
        self._started = self._last_log = time.monotonic()
        self._stack = contextlib.ExitStack()
        self.results = self._stack.enter_context(JsonList(output / "predictions.json"))
        self.index = self._stack.enter_context(JsonList(output / "images.json", self._index_head(), "\n]}\n"))

    def _index_head(self) -> str:
        pairs = zip(self.detector.category_ids, self.detector.class_names, strict=True)
        categories = [{"id": int(number), "name": name} for number, name in pairs]
        return f'{{"info": {{}}, "categories": {json.dumps(categories)}, "images": ['

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: Any) -> None:
        self.index.tail = f'\n], "left_out": {json.dumps(self.left_out)}}}\n'
        self._stack.__exit__(*error)

    def images(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        """Predict (input, drawing) pairs of image files. What cannot be read is left out, and named in the log."""
        for picture, drawing in self._predict(self._load(pairs)):
            self._draw(picture.target, partial(write_image, picture.target, drawing))
            self._log(len(pairs))

    def _load(self, pairs: Sequence[tuple[Path, Path]]) -> Iterator[Picture]:
        from detframe.data import IMAGE_FAULTS, load_image

        for source, target in pairs:
            try:
                image = load_image(source)
            except IMAGE_FAULTS as error:
                self._leave_out(source, error)
                continue
            yield Picture(image, str(source), target)

    def _leave_out(self, source: Path, error: Exception) -> None:
        logger.warning("left out: %s", error)
        self.left_out.append({"file_name": str(source), "error": str(error)})

    def _draw(self, target: Path, write: Callable[[], None]) -> bool:
        """Write a drawing. One that cannot be written is named, and the predictions stay; but a full disk ends all."""
        try:
            write()
            return True
        except OSError as error:
            if is_full_disk(error):
                raise FileAccessError(f"cannot write {target}: {error.strerror}; make room, then repeat") from error
            logger.warning("not drawn: %s", error)
            self.undrawn.append(target)
            return False

    def video(self, source: Path, target: Path) -> None:
        """Predict every frame of a video and write it with the drawings. One that cannot be read is left out."""
        from detframe.inference.inputs import ends_early, video_facts

        frames_per_second, num_frames = video_facts(source)
        before, drawable = self.num_images, True
        total = before + num_frames if num_frames else 0
        with contextlib.closing(VideoWriter(target, frames_per_second)) as writer:
            for _, drawing in self._predict(self._frames(source, target)):
                drawable = drawable and self._draw(target, partial(writer.write, drawing))
                self._log(total)
        if self.num_images > before and ends_early(self.num_images - before, num_frames):
            self.incomplete.append(str(source))

    def _frames(self, source: Path, target: Path) -> Iterator[Picture]:
        from detframe.inference import read_video
        from detframe.inference.inputs import as_tensor

        try:
            for number, frame in enumerate(read_video(source)):
                yield Picture(as_tensor(frame), str(source), target, number)
        except (UserError, OSError) as error:
            self._leave_out(source, error)

    def _predict(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, np.ndarray]]:
        """Detect, write the JSON rows, and give each picture with its drawing, in order."""
        under_way: deque[Picture] = deque()

        def feed() -> Iterator[Tensor]:
            for picture in pictures:
                under_way.append(picture)
                yield picture.image

        for prediction in self.detector.predict_iter(feed(), paste_masks=False, **self.how):
            picture = under_way.popleft()
            self._record(picture, prediction)
            yield picture, self.draw(picture.image, prediction, self.detector.class_names)

    def _record(self, picture: Picture, prediction: Prediction) -> None:
        from detframe.arrays.results import coco_rows, pack

        self.num_images += 1
        self.index.append(_index_row(self.num_images, picture))
        for row in coco_rows(self.num_images, pack(prediction), self.detector.category_ids):
            self.results.append(row)
            self.num_drawn += row["score"] >= self.score_threshold

    def _log(self, total: int) -> None:
        now = time.monotonic()
        if now - self._last_log < 5:
            return
        self._last_log = now
        speed = self.num_images / (now - self._started)
        left = f", {max(total - self.num_images, 0) / speed:.0f} s left" if total else ""
        logger.info("%d of %s images, %.1f images/s%s", self.num_images, total or "?", speed, left)

    def report(self, strict: bool = False) -> int:
        """Say what was made; returns the exit code."""
        if self.left_out:
            logger.warning("%d of the inputs could not be read (images.json lists them)", len(self.left_out))
        if self.incomplete:
            logger.warning("%d videos ended early", len(self.incomplete))
        if self.undrawn:
            logger.warning("%d drawings could not be written", len(self.undrawn))
        logger.info(
            "%d images, %d detections with a score of %g or more (%d in all)",
            self.num_images,
            self.num_drawn,
            self.score_threshold,
            self.results.length,
            extra=RESULT,
        )
        logger.info("drawings, predictions.json and images.json are in %s", self.output, extra=RESULT)
        complete = not (self.left_out or self.incomplete or self.undrawn)
        return 0 if self.num_images and (complete or not strict) else 1


def _index_row(number: int, picture: Picture) -> dict[str, Any]:
    height, width = picture.image.shape[-2:]
    row: dict[str, Any] = {"id": number, "file_name": picture.file_name, "width": int(width), "height": int(height)}
    return row if picture.frame is None else {**row, "frame": picture.frame}
