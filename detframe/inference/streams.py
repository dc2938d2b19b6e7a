"""Cameras and live streams: frames as they come, of which those that come too fast are left out."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path

from detframe.errors import InvalidValueError, UserError
from detframe.inference.addresses import TIMEOUT, WEB_SCHEMES
from detframe.inference.videos import Frame, VideoReader
from detframe.web import without_password

# What a stream may make FFmpeg open: no files of this machine, whatever a playlist names
_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,udplite,rtp,rtsp,rtmp,rtmps,rtmpt,srt,crypto,data"
_WAIT_SECONDS = 0.1
_MICROSECONDS = 10**6


def open_address(address: str) -> VideoReader:
    """The video or stream at an address of http, rtsp, rtmp and others.

    Raises:
        ValueError: it cannot be reached, or is no video.
    """
    over_tcp = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}  # loses no packets
    options = {"protocol_whitelist": _PROTOCOLS, **over_tcp}
    return VideoReader(without_password(address), address, options, TIMEOUT, threads=_is_file(address))


def _is_file(address: str) -> bool:
    return address.partition("://")[0].lower() in WEB_SCHEMES


def open_camera(number: int) -> VideoReader:
    """A camera of this machine, counted from 0.

    Raises:
        ValueError: there is none of that number, or it cannot be opened.
    """
    name = f"camera {number}"
    if sys.platform.startswith("linux"):
        place, kind = f"/dev/video{number}", "v4l2"
        if not Path(place).exists():
            found = sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video*"))
            raise _no_camera(number, found)
        return VideoReader(f"{name} ({place})", place, {}, TIMEOUT, threads=False, input_format=kind)
    kind = "avfoundation" if sys.platform == "darwin" else "dshow"
    cameras = _cameras(kind)
    if number >= len(cameras):
        raise _no_camera(number, [str(place) for place in range(len(cameras))])
    place = str(number) if kind == "avfoundation" else f"video={cameras[number]}"
    return VideoReader(f"{name} ({cameras[number]})", place, {}, TIMEOUT, threads=False, input_format=kind)


def _cameras(kind: str) -> list[str]:
    import av

    return [device.name for device in av.enumerate_input_devices(kind) if "video" in device.media_types]


def _no_camera(number: int, found: list[str]) -> UserError:
    there = f"there is {', '.join(found)}" if found else "there is none"
    return InvalidValueError(f"this machine has no camera {number}: {there}. For a file of that name, write ./{number}")


class LiveStream:
    """The frames of a camera or stream, read by a thread; iterate once.

    A frame that nobody has asked for when the next ones come is left out, so that what is seen is always recent and
    memory stays small. The time of a frame is when it came.

    Args:
        most: frames that may wait.
        stopped: asked many times a second; the stream ends when it says so.

    Attributes:
        num_dropped: frames left out so far.
    """

    def __init__(self, reader: VideoReader, most: int, stopped: Callable[[], bool] = lambda: False) -> None:
        self.reader = reader
        self.num_dropped = 0
        self._stopped = stopped
        self._waiting: deque[Frame] = deque()
        self._most = most
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None

    def __iter__(self) -> Generator[Frame]:
        """The frames.

        Raises:
            ValueError: the stream breaks off.
        """
        thread = threading.Thread(target=self._read, name="detframe-stream", daemon=True)
        thread.start()
        try:
            while (frame := self._next()) is not None:
                yield frame
        finally:
            self._ended = True
            thread.join(timeout=2 * TIMEOUT)  # it may wait for a packet; the reader must not be closed under it
        if self._error is not None and not self._stopped():
            raise self._error

    def _next(self) -> Frame | None:
        with self._changed:
            while not self._waiting and not self._ended:
                if self._stopped():
                    return None
                self._changed.wait(_WAIT_SECONDS)
            return self._waiting.popleft() if self._waiting and not self._stopped() else None

    def _read(self) -> None:
        start = None
        try:
            for frame in self.reader:
                now = time.monotonic()
                start = now if start is None else start
                self._put(Frame(frame.image, Fraction(round((now - start) * _MICROSECONDS), _MICROSECONDS)))
                if self._ended:
                    return
        except Exception as error:  # whatever it is, the thread that iterates raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            while len(self._waiting) >= self._most:
                self._waiting.popleft()
                self.num_dropped += 1
            self._waiting.append(frame)
            self._changed.notify()
