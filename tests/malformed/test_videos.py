"""Videos: their bytes changed, and files that are no videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from detframe.inference.videos import VideoReader, read_video
from tests.data.sets import pixels
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import byte_changes, clear, no_files

FRAMES = 6
CODECS = {"mp4": "mp4v", "avi": "MJPG"}


def write(path: Path, codec: str) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (60, 40))
    for number in range(FRAMES):
        writer.write(pixels(40, 60, number))
    writer.release()
    return path.read_bytes()


def cases(folder: Path) -> Iterator[Case]:
    for suffix, codec in CODECS.items():
        path = folder / f"film.{suffix}"
        for what, content in byte_changes(write(path, codec), flips=40):
            yield Case(f"{suffix} {what}", lambda p=path, c=content: put(p, lambda: p.write_bytes(c)), (path.name,))
    path = folder / "film.mp4"
    (folder / "picture.png").write_bytes(cv2.imencode(".png", pixels(40, 60))[1].tobytes())
    picture = (folder / "picture.png").read_bytes()
    yield Case("a picture", lambda: put(path, lambda: path.write_bytes(picture)), (path.name,))
    playlist = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"
    yield Case("a playlist", lambda: put(path, lambda: path.write_bytes(playlist)), (path.name,))
    for what, place in no_files(path, endless=True):
        yield Case(what, lambda p=place: put(path, p), (path.name,))


def put(path: Path, place: Callable[[], object]) -> str:
    """Read a video; raises NonsenseError where its facts or frames make no sense."""
    clear(path)
    place()
    frames = 0
    for frame in read_video(path):
        frames += 1
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise NonsenseError(f"a frame of shape {frame.shape} and type {frame.dtype}")
    if frames > 10 * FRAMES:
        raise NonsenseError(f"{frames} frames out of {FRAMES}")
    with VideoReader.of_file(path) as reader:
        if not (0 < reader.rate < 1000 and reader.num_frames >= 0 and reader.duration >= 0 and reader.time_base > 0):
            raise NonsenseError(f"{reader.rate} frames a second, {reader.num_frames} frames, {reader.duration} s")
    return READ


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("videos", tmp_path, at_least=150)
