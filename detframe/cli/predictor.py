"""Carrying a detector over images, videos and streams: what `predict` does with each, in little memory."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.crops import CropNames, write_crops
from detframe.cli.media import write_image
from detframe.cli.overlap import Behind, map_ahead, read_ahead
from detframe.cli.pictures import Picture
from detframe.cli.sources import Source
from detframe.cli.video_writer import VideoWriter
from detframe.engine.terminal import PROGRESS, RESULT, show_progress
from detframe.errors import FileAccessError, UserError
from detframe.files import JsonList, is_full_disk
from detframe.own_drawings import CROPS, DRAWING, INDEX, RESULTS
from detframe.texts import counted

if TYPE_CHECKING:
    import numpy as np

    from detframe.inference import Detector
    from detframe.inference.prediction import ImagePrediction
    from detframe.inference.streams import LiveStream
    from detframe.inference.videos import VideoReader

logger = logging.getLogger(__name__)

_BATCH = 8
_THREADS = 4  # that read images
_FRAMES_AHEAD = 8
_LOG_SECONDS = 5
_LARGE_AHEAD = 2  # images that are decoded before their turn where they are cut into tiles
_MANY_TILES = 32


@dataclass(frozen=True)
class Choices:
    """What the arguments of `predict` choose.

    Attributes:
        score: what scores less is not drawn, not cut out, and not in the files of formats.
        classes: names of those that count; None: all.
        how: arguments of `Detector.predict_iter`.
        tiled: images are predicted in tiles, and may be too large for memory.
        batch_size: None: 8, and 1 for live streams, whose frames should not wait for others.
        formats: of the files for other programs, in which images are named relative to `root`.
        frames: keep those of videos as images, under the names in the files of formats.
        max_frames, seconds: where a video or stream ends; None: where it ends itself.
    """

    score: float = 0.5
    classes: Sequence[str] | None = None
    labels: bool = True
    drawings: bool = True
    crops: bool = False
    formats: Sequence[str] = ()
    root: Path | None = None
    frames: bool = False
    batch_size: int | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    tiled: bool = False
    max_frames: int | None = None
    seconds: float | None = None


class Predictor:
    """Carries a detector over many images and videos, and writes drawings and JSON; memory holds a few batches.

    Args:
        stopped: says that no more images and frames are to be begun; what is under way is finished.
    """

    def __init__(
        self,
        detector: Detector,
        output: Path,
        choices: Choices,
        crop_names: CropNames,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.detector = detector
        from detframe.inference.writers import open_writer

        self.output = output
        self.choices = choices
        self.stopped = stopped
        self.num_images = self.num_drawn = self.num_dropped = 0
        self.best_score = 0.0
        self.left_out: list[dict[str, str]] = []  # file_name, error
        self.incomplete: list[str] = []  # videos that broke off
        self.undrawn: list[Path] = []
        self._crop_names = crop_names
        self._started = self._last_log = time.monotonic()
        self._stack = contextlib.ExitStack()
        self.results = self._stack.enter_context(JsonList(output / RESULTS))
        self.index = self._stack.enter_context(JsonList(output / INDEX, self._index_head(), "\n]}\n"))
        names, numbers = detector.class_names, detector.category_ids
        about = {**_about(detector), "root": choices.root, "frames": output / "frames" if choices.frames else None}
        self._writers = [
            self._stack.enter_context(open_writer(kind, output / kind, names, numbers, **about))
            for kind in choices.formats
        ]

    def _index_head(self) -> str:
        pairs = zip(self.detector.category_ids, self.detector.class_names, strict=True)
        categories = [{"id": int(number), "name": name} for number, name in pairs]
        about = {CROPS: True} if self.choices.crops else {}
        return f'{{"info": {json.dumps(about)}, "categories": {json.dumps(categories)}, "images": ['

    def _index_row(self, picture: Picture, size_hw: tuple[int, int]) -> dict[str, Any]:
        """Of an image with the place of its drawing in the output."""
        height, width = size_hw
        source = picture.source
        row: dict[str, Any] = {"id": self.num_images, "file_name": source.name, "width": width, "height": height}
        if picture.frame is not None:
            return {**row, "frame": picture.frame, "seconds": round(float(picture.time), 6)}
        if self.choices.drawings:
            row[DRAWING] = source.target.relative_to(self.output.resolve()).as_posix()
        return row

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: Any) -> None:
        self.index.tail = f'\n], "left_out": {json.dumps(self.left_out)}}}\n'
        self._stack.__exit__(*error)

    # ------------------------------------------------------------------ images
    def images(self, sources: Sequence[Source]) -> None:
        """Predict images. What cannot be read is left out, and named in the log."""
        with Behind() as behind:
            for picture, prediction in self._predict(self._load(sources), self.choices.batch_size or _BATCH):
                behind.add(partial(self._finish_image, picture, prediction), partial(self._list, picture, prediction))
                self._tell("images", self.num_images, len(sources))

    def _load(self, sources: Sequence[Source]) -> Generator[Picture]:
        from detframe.data import IMAGE_FAULTS

        tiled = self.choices.tiled
        most = _LARGE_AHEAD if tiled else 2 * (self.choices.batch_size or _BATCH)
        opened = partial(Picture.of, by_region=tiled, form=self.detector.form)
        for source, picture in map_ahead(opened, sources, _THREADS, most):
            if self.stopped():
                return
            try:
                yield picture.result()
            except IMAGE_FAULTS as error:
                self._leave_out(source, error)

    def _finish_image(self, picture: Picture, prediction: ImagePrediction) -> None:
        target = picture.source.target
        if self.choices.drawings:
            self._write(target, lambda: write_image(target, self._drawn(picture, prediction)))
        self._cut(picture, prediction)

    def _list(self, picture: Picture, prediction: ImagePrediction, _: object = None) -> None:
        """Write what was found into the files of formats, of one picture after the other."""
        for writer in self._writers:
            writer.write(picture.source.origin, prediction.size_hw, prediction, picture.frame)

    def _cut(self, picture: Picture, prediction: ImagePrediction) -> None:
        if self.choices.crops:
            self._write(picture.source.target, lambda: write_crops(picture, prediction, self._crop_names))

    def _drawn(self, picture: Picture, prediction: ImagePrediction) -> np.ndarray:
        from detframe.visualization import draw_instances, reduced

        pixels = picture.to_draw()
        height, width = pixels.shape[:2]
        shown = reduced(prediction, prediction.size_hw, (height, width))
        if (height, width) != prediction.size_hw:
            logger.info("%s is very large: drawn with %dx%d pixels", picture.source.name, width, height)
        return draw_instances(pixels, shown, self.detector.class_names, labels=self.choices.labels)

    def _write(self, target: Path, write: Callable[[], None]) -> bool:
        """Write a drawing. One that cannot be written is named, and the predictions stay; but a full disk ends all."""
        from detframe.data import ImageReadError

        try:
            write()
            return True
        except (OSError, ImageReadError) as error:
            if is_full_disk(error):
                reason = getattr(error, "strerror", None) or error
                raise FileAccessError(f"cannot write {target}: {reason}; make room, then repeat") from error
            logger.warning("not drawn: %s", error)
            self.undrawn.append(target)
            return False

    def _leave_out(self, source: Source, error: Exception) -> None:
        logger.warning("left out: %s", error)
        self.left_out.append({"file_name": source.name, "error": str(error)})

    # ------------------------------------------------------------------ videos
    def video(self, source: Source) -> bool:
        """Predict every frame of a video, or what comes of a stream, and write it with the drawings.

        Returns:
            whether it was stopped before its end; a live stream has none.
        """
        try:
            reader = source.open_video()
        except (UserError, OSError) as error:
            self._leave_out(source, error)
            return False
        batch_size = self.choices.batch_size or (1 if reader.is_live else _BATCH)
        with reader, contextlib.closing(_Film(self, source, reader)) as film, Behind() as behind:
            for picture, prediction in self._predict(self._frames(source, reader, batch_size), batch_size):
                behind.add(
                    partial(self._finish_frame, picture, prediction), partial(self._use, film, picture, prediction)
                )
        return self.stopped() and not reader.is_live

    def _finish_frame(self, picture: Picture, prediction: ImagePrediction) -> np.ndarray | None:
        from detframe.inference.writers import image_name

        self._cut(picture, prediction)
        if self.choices.frames:
            place = self.output / "frames" / image_name(picture.source.listed, picture.frame)
            self._write(place, lambda: write_image(place, picture.pixels()))
        return self._drawn(picture, prediction) if self.choices.drawings else None

    def _use(self, film: _Film, picture: Picture, prediction: ImagePrediction, drawing: np.ndarray | None) -> None:
        self._list(picture, prediction)
        film.add(picture.time, drawing)

    def _frames(self, source: Source, reader: VideoReader, batch_size: int) -> Generator[Picture]:
        """The frames; a video that cannot be read, or breaks off, is named in the log."""
        from detframe.inference.streams import LiveStream

        stream = LiveStream(reader, batch_size, self.stopped) if reader.is_live else None
        frames, choices = read_ahead(reader, _FRAMES_AHEAD) if stream is None else iter(stream), self.choices
        number, ends = 0, False
        try:
            for number, frame in enumerate(frames, 1):
                ends = choices.seconds is not None and float(frame.time) >= choices.seconds
                if self.stopped() or ends:
                    break
                yield Picture(frame.image, source, number - 1, frame.time)
                self._tell_frames(source, reader, stream, number)
                if number == choices.max_frames:
                    break
            else:
                self._complain(source, "" if reader.is_live else reader.complaint)
        except (UserError, OSError) as error:
            if number:
                self._complain(source, str(error))
            else:
                self._leave_out(source, error)
        finally:
            frames.close()
            self._count_dropped(source, stream)

    def _complain(self, source: Source, complaint: str) -> None:
        if complaint:
            logger.warning("%s", complaint)
            self.incomplete.append(source.name)

    def _count_dropped(self, source: Source, stream: LiveStream | None) -> None:
        if stream is not None and stream.num_dropped:
            self.num_dropped += stream.num_dropped
            frames = counted(stream.num_dropped, "frame")
            logger.info("%s: %s came faster than they could be predicted, and were left out", source.name, frames)

    def _tell_frames(self, source: Source, reader: VideoReader, stream: LiveStream | None, number: int) -> None:
        what = Path(source.name).name or source.name
        if stream is None:
            self._tell(what, number, reader.num_frames)
        else:
            self._tell(what, number, 0, f", {stream.num_dropped} left out" if stream.num_dropped else "")

    # ------------------------------------------------------------------ both
    def _predict(self, pictures: Generator[Picture], batch_size: int) -> Iterator[tuple[Picture, ImagePrediction]]:
        """Detect, write the JSON rows, and give each picture with what of it is to be shown, in order."""
        under_way: deque[Picture] = deque()

        def feed() -> Iterator[np.ndarray | Path]:
            for picture in pictures:
                under_way.append(picture)
                yield picture.given

        how: dict[str, Any] = {"batch_size": batch_size, "paste_masks": False, **self.choices.how}
        if self.choices.tiled:
            how["progress"] = self._tell_tiles
        with contextlib.closing(pictures):
            for prediction in self.detector.predict_iter(feed(), on_error="skip", **how):
                picture = under_way.popleft()
                if prediction is None:  # which the detector has said
                    self.left_out.append({"file_name": picture.source.name, "error": "it cannot be read to its end"})
                else:
                    yield picture, self._record(picture, prediction)

    def _record(self, picture: Picture, prediction: ImagePrediction) -> ImagePrediction:
        """Write what was found, of the classes that count; returns what of it scores enough to be shown."""
        if self.choices.classes is not None:
            prediction = prediction.of(self.choices.classes)
        self.num_images += 1
        self.index.append(self._index_row(picture, prediction.size_hw))
        for row in prediction.to_coco(self.num_images):
            self.results.append(row)
        shown = prediction.above(self.choices.score)
        self.num_drawn += len(shown["scores"])
        if len(prediction["scores"]):
            self.best_score = max(self.best_score, float(prediction["scores"].max()))
        return shown

    def _tell_tiles(self, done: int, total: int) -> None:
        """Show how far an image is whose tiles take longer than some batches."""
        if total <= _MANY_TILES or done == total:
            return
        what = f"image {self.num_images + len(self.left_out) + 1}: tiles"
        show_progress(what, done, total)
        now = time.monotonic()
        if now - self._last_log >= _LOG_SECONDS:
            self._last_log = now
            logger.info("%s: %d of %d", what, done, total, extra=PROGRESS)

    def _tell(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show how far it is: in the line of progress, or every five seconds as a line of the log."""
        now = time.monotonic()
        speed = self.num_images / max(now - self._started, 1e-3)
        left = f", {max(total - done, 0) / speed:.0f} s left" if total and speed else ""
        pace = f"{speed:.1f} images/s{left}{note}"
        show_progress(what, done, total, pace)
        if now - self._last_log >= _LOG_SECONDS:
            self._last_log = now
            logger.info("%s: %d of %s, %s", what, done, total or "?", pace, extra=PROGRESS)

    def report(self, strict: bool = False) -> int:
        """Say what was made; returns the exit code."""
        if self.left_out:
            logger.warning("%d of the inputs could not be read (images.json lists them)", len(self.left_out))
        if self.incomplete:
            logger.warning("%s ended early", counted(len(self.incomplete), "video"))
        if self.undrawn:
            logger.warning("%s could not be written", counted(len(self.undrawn), "drawing"))
        logger.info(
            "%s, %s with a score of %g or more (%d in all)",
            counted(self.num_images, "image"),
            counted(self.num_drawn, "detection"),
            self.choices.score,
            self.results.length,
            extra=RESULT,
        )
        if self.results.length and not self.num_drawn:
            shows = "; a lower --score shows what there is"
            logger.info("the highest score is %.2f%s", self.best_score, shows, extra=RESULT)
        folders = {CROPS: self.choices.crops, "frames": self.choices.frames}
        made = ["drawings"] if self.choices.drawings else []
        made += [name for name, chosen in folders.items() if chosen and (self.output / name).is_dir()]
        made += [*self.choices.formats, "predictions.json"]
        logger.info("%s and images.json are in %s", ", ".join(made), self.output, extra=RESULT)
        complete = not (self.left_out or self.incomplete or self.undrawn)
        return 0 if self.num_images and (complete or not strict) else 1


class _Film:
    """The drawn video of a source; where it cannot be written, the rest of it is left out."""

    def __init__(self, predictor: Predictor, source: Source, reader: VideoReader) -> None:
        self._write = partial(predictor._write, source.target)
        self._writer = VideoWriter(source.target, reader.rate, None if reader.is_live else reader.time_base)
        self._good = True

    def add(self, seconds: Fraction, drawing: np.ndarray | None) -> None:
        """Append a frame."""
        if drawing is not None and self._good:
            self._good = self._write(lambda: self._writer.write(drawing, seconds))

    def close(self) -> None:
        """Finish the file."""
        self._write(self._writer.close)


def _about(detector: Detector) -> dict[str, Any]:
    """What writers of formats know of a detector, beside its classes."""
    return {"keypoint_names": tuple(detector.meta.get("keypoint_names", ()))}
