"""Detect in images and videos with a trained checkpoint: tools/predict.py and `detframe predict`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import add_consent_argument, base_parser, parse, positive
from detframe.cli.common import log_to_terminal
from detframe.cli.errors import guard
from detframe.cli.media import JsonList, VideoWriter, find_inputs, is_video, output_paths, video_facts, write_image

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
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images per forward pass (8)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add_consent_argument(parser)
    args = parse(parser, argv)
    return guard(lambda: run(args), args.debug)


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return number


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
    inputs = find_inputs(args.input)
    targets = output_paths(inputs, Path(args.output))
    from detframe.inference import Detector

    detector = Detector.load(args.weights, args.device, allow_custom_imports=args.allow_custom_imports)
    pairs = list(zip(inputs, targets, strict=True))
    with Predictor(detector, Path(args.output), args.score_threshold, args.batch_size) as predictor:
        predictor.images([pair for pair in pairs if not is_video(pair[0])])
        for source, target in pairs:
            if is_video(source):
                predictor.video(source, target)
    return predictor.report()


class Predictor:
    """Carries a detector over many images and videos, and writes drawings and JSON; memory holds a few batches."""

    def __init__(self, detector: Detector, output: Path, score_threshold: float, batch_size: int) -> None:
        self.detector = detector
        self.output = output
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.num_images = self.num_drawn = 0
        self.left_out: list[str] = []
        self._started = self._last_log = time.monotonic()
        self._stack = contextlib.ExitStack()
        self.results = self._stack.enter_context(JsonList(output / "predictions.json"))
        self.index = self._stack.enter_context(JsonList(output / "images.json", self._index_head(), "]}"))

    def _index_head(self) -> str:
        pairs = zip(self.detector.category_ids, self.detector.class_names, strict=True)
        categories = [{"id": int(number), "name": name} for number, name in pairs]
        return f'{{"info": {{}}, "categories": {json.dumps(categories)}, "images": ['

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def images(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        """Predict (input, drawing) pairs of image files. What cannot be read is left out, and named in the log."""
        for picture, drawing in self._predict(self._load(pairs)):
            write_image(picture.target, drawing)
            self._log(len(pairs))

    def _load(self, pairs: Sequence[tuple[Path, Path]]) -> Iterator[Picture]:
        from detframe.data import load_image

        for source, target in pairs:
            try:
                image = load_image(source)
            except (ValueError, OSError) as error:
                logger.warning("left out: %s", error)
                self.left_out.append(str(source))
                continue
            yield Picture(image, str(source), target)

    def video(self, source: Path, target: Path) -> None:
        """Predict every frame of a video and write it with the drawings."""
        from detframe.inference import read_video
        from detframe.inference.inputs import as_tensor

        frames_per_second, num_frames = video_facts(source)
        total = self.num_images + num_frames if num_frames else 0
        frames = (Picture(as_tensor(f), str(source), target, number) for number, f in enumerate(read_video(source)))
        with contextlib.closing(VideoWriter(target, frames_per_second)) as writer:
            for _, drawing in self._predict(frames):
                writer.write(drawing)
                self._log(total)

    def _predict(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, np.ndarray]]:
        """Detect, write the JSON rows, and give each picture with its drawing, in order."""
        from detframe.visualization import draw_instances

        under_way: deque[Picture] = deque()

        def feed() -> Iterator[Tensor]:
            for picture in pictures:
                under_way.append(picture)
                yield picture.image

        for prediction in self.detector.predict_iter(feed(), self.batch_size, paste_masks=False):
            picture = under_way.popleft()
            self._record(picture, prediction)
            names = self.detector.class_names
            yield picture, draw_instances(picture.image, prediction, names, score_threshold=self.score_threshold)

    def _record(self, picture: Picture, prediction: Prediction) -> None:
        from detframe.evaluation.results import coco_rows, pack

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

    def report(self) -> int:
        """Say what was made; returns the exit code."""
        if self.left_out:
            logger.warning("%d of the inputs could not be read", len(self.left_out))
        logger.info(
            "%d images, %d detections with a score of %g or more (%d in all)",
            self.num_images,
            self.num_drawn,
            self.score_threshold,
            self.results.length,
        )
        logger.info("drawings, predictions.json and images.json are in %s", self.output)
        return 0 if self.num_images else 1


def _index_row(number: int, picture: Picture) -> dict[str, Any]:
    height, width = picture.image.shape[-2:]
    row: dict[str, Any] = {"id": number, "file_name": picture.file_name, "width": int(width), "height": int(height)}
    return row if picture.frame is None else {**row, "frame": picture.frame}
