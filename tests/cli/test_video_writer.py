"""Written videos: what browsers need, the times of the source, sizes of every kind, and disks that are full."""

from __future__ import annotations

import contextlib
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from detframe.cli.video_writer import VideoWriter
from detframe.inference.videos import VideoReader


def noise(number: int, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (*size_hw, 3), np.uint8)


def test_what_browsers_need(tmp_path: Path):
    with contextlib.closing(VideoWriter(tmp_path / "a.mp4", 10)) as writer:
        for _ in range(3):
            writer.write(np.full((48, 64, 3), (200, 30, 60), np.uint8))
        assert not (tmp_path / "a.mp4").exists()
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.colorspace, codec.color_range) == ("h264", "yuv420p", 1, 1)
    with VideoReader.of_file(tmp_path / "a.mp4") as reader:
        np.testing.assert_allclose(next(iter(reader)).image[20, 20], (200, 30, 60), atol=5)


@pytest.mark.parametrize("size_hw", [(51, 65), (48, 65), (51, 64), (1, 1), (2, 2)])
def test_odd_sizes(tmp_path: Path, size_hw: tuple[int, int]):
    with contextlib.closing(VideoWriter(tmp_path / "a.mp4", 10)) as writer:
        for number in range(3):
            writer.write(noise(number, size_hw))
    with VideoReader.of_file(tmp_path / "a.mp4") as reader:
        even = (size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2, 3)
        assert [frame.image.shape for frame in reader] == [even] * 3


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25), Fraction(1, 2)])
def test_the_rate_is_kept_exactly(tmp_path: Path, rate: Fraction):
    with contextlib.closing(VideoWriter(tmp_path / "a.mp4", rate, 1 / rate)) as writer:
        for number in range(4):
            writer.write(noise(number), number / rate)
    with VideoReader.of_file(tmp_path / "a.mp4") as reader:
        assert [frame.time for frame in reader] == [number / rate for number in range(4)]
        assert (reader.rate, reader.num_frames) == (rate, 4)


def test_times_are_kept_and_never_go_back(tmp_path: Path):
    seconds = [Fraction(text) for text in ("0", "0.1", "0.15", "2", "1.9", "5")]
    with contextlib.closing(VideoWriter(tmp_path / "a.mp4", 10, Fraction(1, 1000))) as writer:
        for number, time in enumerate(seconds):
            writer.write(noise(number), time)
    with VideoReader.of_file(tmp_path / "a.mp4") as reader:
        times = [frame.time for frame in reader]
    assert times == [*seconds[:4], Fraction("2.001"), 5]


def test_a_full_disk_leaves_no_half_video(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = VideoWriter(tmp_path / "a.mp4", 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            for number in range(200):
                writer.write(noise(number))
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == 27 and not list(tmp_path.iterdir())


def test_places_and_sizes_that_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        VideoWriter(tmp_path / "file" / "a.mp4", 10).write(noise(0))
    with pytest.raises(OSError, match=r"a\.mp4 cannot be written as a video"):
        VideoWriter(tmp_path / "a.mp4", 10).write(np.zeros((20, 40_000, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_ffmpeg_without_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(OSError, match=r"a\.mp4 cannot be written as a video: the FFmpeg that PyAV uses has no libx264"):
        VideoWriter(tmp_path / "a.mp4", 10).write(noise(0))
    assert not list(tmp_path.iterdir())
