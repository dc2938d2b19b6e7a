"""Tracking as examples/track.py shows it, with the real `trackers` and `supervision`, on a video made here."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detframe.inference import read_video
from tests.examples.conftest import COLOURS, ColourDetector, load_example
from tests.integrations.conftest import checkpoint_path, detector

__all__ = ["checkpoint_path", "detector"]

FRAMES, HEIGHT, WIDTH = 24, 96, 160
HIDDEN = range(10, 13)  # frames in which the green square cannot be seen


@pytest.fixture(scope="module")
def example():
    return load_example("track")


def frame(number: int) -> np.ndarray:
    """Red goes right, green left on another row, blue comes late."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    places = {"red": (10 + 4 * number, 10), "green": (130 - 4 * number, 40), "blue": (60, 70)}
    for name, (x, y) in places.items():
        if not (name == "green" and number in HIDDEN) and not (name == "blue" and number < 8):
            image[y : y + 20, x : x + 20] = COLOURS[name]
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (WIDTH, HEIGHT))
    for number in range(FRAMES):
        writer.write(frame(number)[:, :, ::-1])
    writer.release()
    return path


def test_moving_objects_keep_their_numbers(example, video):
    tracker = example.ByteTrackTracker(frame_rate=10)
    numbers = {name: [] for name in COLOURS}
    for _, found in example.track(ColourDetector(), read_video(video), tracker, batch_size=4):
        assert len(set(found.tracker_id.tolist())) == len(found)
        for name, number in zip(found["class_name"], found.tracker_id.tolist(), strict=True):
            numbers[name].append(number)
    assert {name: len(set(ids)) for name, ids in numbers.items()} == {"red": 1, "green": 1, "blue": 1}
    assert len({ids[0] for ids in numbers.values()}) == 3
    # all but the first frames, until a track is sure; green also while it is hidden
    assert len(numbers["red"]) >= FRAMES - 2 and len(numbers["blue"]) >= FRAMES - 8 - 2
    assert len(numbers["green"]) >= FRAMES - len(HIDDEN) - 3


def test_each_frame_gets_its_own_predictions(example, video, detector):
    class Numbering:
        def update(self, detections):
            detections.tracker_id = np.arange(len(detections)) - 1  # the first is not sure yet
            return detections

    frames = list(read_video(video))[:5]
    tracked = list(example.track(detector, iter(frames), Numbering(), score=0.3, batch_size=2))
    assert len(tracked) == 5
    for (shown, found), image in zip(tracked, frames, strict=True):
        assert shown is image
        (prediction,) = detector.predict(image, score_threshold=0.3)
        np.testing.assert_allclose(found.xyxy, np.asarray(prediction["boxes"])[1:], atol=1e-3)


def test_the_command_writes_a_video_of_all_frames(example, video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example.Detector, "load", lambda path: ColourDetector())
    output = tmp_path / "tracked.mp4"
    example.main(["--weights", "any.pth", "--video", str(video), "--output", str(output)])
    drawn = list(read_video(output))
    assert len(drawn) == FRAMES and drawn[0].shape == (HEIGHT, WIDTH, 3)
    assert np.abs(drawn[20].astype(int) - frame(20)).max() > 60  # something is drawn
    assert capsys.readouterr().out == f"{output}: 3 objects followed\n"
