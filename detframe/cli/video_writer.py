"""Writing videos that browsers play: H.264 in .mp4, by PyAV."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.errors import FileAccessError, UserError
from detframe.files import replacing

if TYPE_CHECKING:
    import numpy as np

_CODEC = "libx264"
_QUALITY = {"preset": "veryfast", "crf": "20"}
_BROWSERS = {"movflags": "+faststart"}  # the table of contents stands first, so that a player begins at once
_BT709 = 1  # what browsers take the colours of a video for; FFmpeg's number of its primaries, transfer and matrix
_FINEST = 10**6  # parts of a second
_USUAL_BASE = Fraction(1, 90_000)


class VideoWriter:
    """Writes uint8 RGB arrays (H, W, 3) of one size as an .mp4, which appears under its name when it is closed.

    The file is opened at the first frame. Its sides are even, as H.264 in browsers needs it: the last row and column of
    an odd size are there twice. Frames of another size than the first are resized to it.

    Args:
        frames_per_second: for frames without a time of their own, and as a hint for players.
        time_base: seconds of which the times of the frames are multiples.
    """

    def __init__(self, path: Path, frames_per_second: float | Fraction, time_base: Fraction | None = None) -> None:
        self.path = path
        self.rate = Fraction(frames_per_second).limit_denominator(1001)
        fits = time_base is not None and 0 < time_base <= 1 and time_base.denominator <= _FINEST
        self.time_base = time_base if time_base is not None and fits else _USUAL_BASE
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._count, self._last = 0, -1

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame, shown `time` seconds after the beginning; later than the one before in any case.

        Raises:
            OSError: the file cannot be written.
        """
        import av

        image = self._fitted(image)
        with self._named_errors():
            if self._container is None:
                self._open(image.shape[1], image.shape[0])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range="MPEG"
            )
            seconds = Fraction(self._count) / self.rate if time is None else time
            self._last = max(round(seconds / self.time_base), self._last + 1)
            frame.pts, frame.time_base = self._last, self.time_base
            self._container.mux(self._stream.encode(frame))
        self._count += 1

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        import numpy as np

        if self._stream is not None and (image.shape[1] // 2, image.shape[0] // 2) != (
            self._stream.width // 2,
            self._stream.height // 2,
        ):
            import cv2

            image = cv2.resize(image, (self._stream.width, self._stream.height))
        odd = [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)]
        return np.pad(image, odd, mode="edge") if image.shape[0] % 2 or image.shape[1] % 2 else image

    def _open(self, width: int, height: int) -> None:
        import av

        if _CODEC not in av.codecs_available:
            raise FileAccessError(
                f"{self.path} cannot be written as a video: the FFmpeg that PyAV uses has no {_CODEC}; "
                "`pip install --force-reinstall --only-binary av av` brings one that has"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self._stack.enter_context(replacing(self.path))
        self._container = av.open(f"file:{file.name}", "w", format="mp4", options=_BROWSERS)
        self._stream = self._container.add_stream(_CODEC, rate=self.rate, options=_QUALITY)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        codec = self._stream.codec_context
        codec.time_base = self.time_base
        codec.color_primaries = codec.color_trc = codec.colorspace = codec.color_range = _BT709

    @contextlib.contextmanager
    def _named_errors(self) -> Any:
        """Errors of FFmpeg as those of the system where they are, else with the name of the file; nothing is left."""
        import av

        try:
            yield
        except (OSError, av.FFmpegError, ValueError) as error:
            self._discard(error)
            if isinstance(error, UserError):
                raise
            if isinstance(error, OSError) and error.errno:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise FileAccessError(f"{self.path} cannot be written as a video: {error}") from error

    def _discard(self, error: Exception) -> None:
        """Remove what was written so far."""
        container, self._container = self._container, None
        if container is not None:
            import av

            with contextlib.suppress(OSError, ValueError, av.FFmpegError):  # the first error is the one to tell
                container.close()
        with contextlib.suppress(type(error)):
            self._stack.__exit__(type(error), error, error.__traceback__)

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        if self._container is None:
            return
        with self._named_errors():
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None
            self._stack.close()
