"""Videos: every frame, upright, in its colours and at its time; what is truncated, damaged or no video is named."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from detframe.inference.videos import VideoReader, read_video

CORNER = (20, 230, 20)
GROUND = (200, 30, 60)


def frame_of(number: int = 0, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Its top left corner is green; noise makes packets large enough to be cut."""
    image = np.full((*size_hw, 3), GROUND, np.uint8)
    image[: size_hw[0] // 4, : size_hw[1] // 4] = CORNER
    image[-8:, -8:] = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
    return image


def write(
    path: Path,
    seconds: Sequence[Fraction],
    codec: str = "libx264",
    rotation: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(frame_of(number), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def regular(count: int) -> list[Fraction]:
    return [Fraction(number, 10) for number in range(count)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_frames_and_their_times(tmp_path: Path, suffix: str):
    with VideoReader.of_file(write(tmp_path / f"ü a%d.{suffix}", regular(12))) as reader:
        frames = list(reader)
        assert (reader.rate, reader.num_frames, reader.complaint, reader.is_live) == (10, 12, "", False)
    assert [frame.time for frame in frames] == regular(12)
    np.testing.assert_allclose(frames[3].image[30, 30], GROUND, atol=6)
    np.testing.assert_allclose(frames[3].image[4, 4], CORNER, atol=6)


def test_times_that_are_not_regular(tmp_path: Path):
    seconds = [Fraction(text) for text in ("2", "2.1", "2.15", "3", "5.5", "5.6")]
    with VideoReader.of_file(write(tmp_path / "a.mp4", seconds)) as reader:
        assert [frame.time for frame in reader] == [time - 2 for time in seconds]


def test_times_that_cannot_be(tmp_path: Path):
    """As those of damaged files: the rate of the video goes on in their place."""
    with VideoReader.of_file(write(tmp_path / "a.mp4", regular(3))) as reader:
        times = []
        for stamp in (7, 7.1, None, 6, 2**45, 7.9):
            reader.count += 1
            pts = None if stamp is None else round(stamp * 1000)
            times.append(float(reader._time_of(SimpleNamespace(pts=pts, time_base=Fraction(1, 1000)))))
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.3, 0.4, 0.9])


@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_a_turned_video_is_read_upright_as_players_show_it(tmp_path: Path, rotation: int):
    path = write(tmp_path / "a.mp4", regular(3), rotation=rotation)
    image = next(iter(read_video(path)))
    capture = cv2.VideoCapture(str(path))  # OpenCV turns it as well
    other = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    assert image.shape == other.shape and image.flags.c_contiguous
    for y, x in ((4, 4), (4, -4), (-4, 4)):
        np.testing.assert_allclose(image[y, x].astype(int), other[y, x].astype(int), atol=12)


@pytest.mark.parametrize(("suffix", "said"), [("mp4", "header states 40"), ("mkv", "of 4.0 s: is it truncated")])
def test_a_truncated_video_is_named(tmp_path: Path, suffix: str, said: str, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path / f"a.{suffix}", regular(40), options={"movflags": "+faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with VideoReader.of_file(path) as reader:
        count = len(list(reader))
        assert 0 < count < 40 and f"a.{suffix} ends after {count} frames" in reader.complaint
        assert said in reader.complaint
    assert len(list(read_video(path))) == count and f"a.{suffix} ends after" in caplog.text


def test_damage_costs_only_the_damaged_frames(tmp_path: Path):
    path = write(tmp_path / "a.mp4", regular(40), options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(data)
    with VideoReader.of_file(path) as reader:
        count = len(list(reader))
        assert 20 < count <= 40 and "a.mp4 is damaged" in reader.complaint


def test_a_video_without_pictures(tmp_path: Path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"a\.mp4 is no video that can be read: it has no pictures"):
        next(read_video(tmp_path / "a.mp4"))


def test_a_playlist_reaches_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that is called a video may make FFmpeg open files, and nothing else."""
    seen: list[dict[str, str]] = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kw: (seen.append(kw["options"]), real(*args, **kw))[1])
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match="is no video that can be read"):
        next(read_video(tmp_path / "a.m3u8"))
    assert seen == [{"protocol_whitelist": "file,crypto,data"}]
