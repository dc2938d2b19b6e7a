"""Videos, read with PyAV: every frame once, upright, with the time at which it is shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from detframe.errors import InvalidValueError, MissingFileError

logger = logging.getLogger(__name__)

USUAL_RATE = Fraction(25)  # frames per second, where a video states none that can be
_HIGHEST_RATE = 1000
_MOST_FRAMES = 2**40
_LONGEST_GAP = 86_400 * 7  # seconds between two frames; a damaged time may lie thousands of years ahead
# What a file may make FFmpeg open: other files. A playlist of addresses, whatever it is called, reaches no network
_FILE_PROTOCOLS = "file,crypto,data"


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
        image: uint8 RGB (H, W, 3), turned as the video says.
        time: seconds since the first frame.
    """

    image: np.ndarray
    time: Fraction


class VideoReader:
    """The frames of a video, in order and decoded by threads; iterate once, and close it, or use it in a `with`.

    Args:
        name: what messages call it.
        url: of FFmpeg.
        options: of FFmpeg's reader, by name.
        timeout: seconds without data after which opening or reading has failed.
        threads: decode several frames at a time: faster, but the first comes later.
        input_format: of FFmpeg; "" recognises it.

    Attributes:
        rate: frames per second; on average, where they differ.
        time_base: seconds, of which all times are multiples.
        num_frames: as the header states, or follows from the duration; 0: unknown.
        duration: seconds, 0 where unknown.
        is_live: a camera or a stream without an end, whose frames come when they come.
        count: frames read so far.
        damaged: packets and frames of them that could not be decoded, or not wholly.

    Raises:
        ValueError: it cannot be read as a video.
    """

    def __init__(
        self,
        name: str,
        url: str,
        options: dict[str, str],
        timeout: float | None = None,
        threads: bool = True,
        input_format: str = "",
    ) -> None:
        import av

        self.name = name
        self.count = self.damaged = 0
        self._start: Fraction | None = None
        self._time = Fraction(0)
        try:
            self._container: Any = av.open(url, format=input_format or None, options=options, timeout=timeout)
        except (av.FFmpegError, UnicodeError, ValueError) as error:
            raise InvalidValueError(f"{name} is no video that can be read: {_reason(error)}") from None
        if not self._container.streams.video:
            self._container.close()
            raise InvalidValueError(f"{name} is no video that can be read: it has no pictures")
        self._stream: Any = self._container.streams.video[0]
        if threads:
            self._stream.thread_type = "AUTO"
        self._read_facts()

    @classmethod
    def of_file(cls, path: str | Path) -> VideoReader:
        """A video file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read as a video.
        """
        if not Path(path).is_file():  # a pipe would wait for a writer
            if Path(path).exists():
                raise InvalidValueError(f"{path} is a folder, a pipe or a device, not a video")
            raise MissingFileError(f"no such video: {path} (working folder {Path.cwd()})")
        return cls(str(path), f"file:{Path(path).absolute()}", {"protocol_whitelist": _FILE_PROTOCOLS})

    def _read_facts(self) -> None:
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate
        self.rate = Fraction(rate) if rate and 0 < rate < _HIGHEST_RATE else USUAL_RATE
        self.time_base = Fraction(stream.time_base or 1 / self.rate)
        seconds = (
            stream.duration * self.time_base if stream.duration else Fraction(self._container.duration or 0, 10**6)
        )
        self.duration = max(seconds, Fraction(0))
        self._stated = stream.frames if 0 < stream.frames < _MOST_FRAMES else 0
        size = self._container.size or 0  # of a stream below 0, or None since PyAV 19
        endless = size <= 0 or self._container.format.name == "hls"  # whose size is the playlist's
        self.is_live = endless and not self.duration
        follows = round(self.duration * self.rate)
        self.num_frames = self._stated or (follows if follows < _MOST_FRAMES else 0)

    def __iter__(self) -> Iterator[Frame]:
        """The frames.

        Raises:
            ValueError: it breaks off, which a truncated file often does, or it has no frames.
        """
        import av

        try:
            for packet in self._container.demux(self._stream):
                for frame in self._decoded(packet):
                    self.count += 1
                    self.damaged += bool(frame.is_corrupt)
                    yield Frame(_upright(frame), self._time_of(frame))
        except (av.FFmpegError, MemoryError) as error:
            raise InvalidValueError(
                f"{self.name} cannot be read as a video after {self.count} frames: {_reason(error)}"
            ) from None
        if not self.count:
            raise InvalidValueError(f"{self.name} is no video that can be read, or it has no frames")

    def _decoded(self, packet: Any) -> list[Any]:
        """The frames that a packet completes. What is damaged costs itself only, and is counted."""
        import av

        try:
            return list(packet.decode())
        except (av.error.InvalidDataError, av.error.PatchWelcomeError):
            self.damaged += 1
            return []

    def _time_of(self, frame: Any) -> Fraction:
        """Seconds since the first frame; where the video does not say, or says what cannot be, its rate does."""
        following = self._time + 1 / self.rate if self.count > 1 else Fraction(0)
        if frame.pts is not None:
            stamp = frame.pts * Fraction(frame.time_base or self.time_base)
            self._start = stamp if self._start is None else self._start
            if 0 <= stamp - self._start <= self._time + _LONGEST_GAP:
                following = stamp - self._start
        self._time = following
        return following

    @property
    def complaint(self) -> str:
        """What is wrong with a video that was read to its end: it is shorter than it states, or damaged; or ""."""
        frames = "1 frame" if self.count == 1 else f"{self.count} frames"
        if self._stated - self.count > max(2, self._stated // 20) + self.damaged:
            return f"{self.name} ends after {frames}, but its header states {self._stated}: is it truncated?"
        end = self._time + 1 / self.rate
        if not self._stated and self.duration - end > max(2 / self.rate, self.duration / 20):
            seconds = f"{float(end):.1f} of {float(self.duration):.1f} s"
            return f"{self.name} ends after {frames}, {seconds}: is it truncated?"
        return f"{self.name} is damaged: {self.damaged} of its parts could not be decoded" if self.damaged else ""

    def close(self) -> None:
        """Let go of the file or connection."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video file, one by one, as RGB arrays (H, W, 3) of uint8, turned as the video says.

    A video that ends long before the length in its header, or of which parts cannot be decoded, is warned of.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as a video, or not to its end.
    """
    with VideoReader.of_file(path) as reader:
        for frame in reader:
            yield frame.image
        if reader.complaint:
            logger.warning("%s", reader.complaint)


def _upright(frame: Any) -> np.ndarray:
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _reason(error: Exception) -> str:
    """An error of FFmpeg in words."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
