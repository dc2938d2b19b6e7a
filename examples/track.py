"""Follow objects through a video: detected by detframe, numbered by the `trackers` package, drawn by supervision.

    pip install detframe supervision trackers
    python examples/track.py --weights model_best.pth --video street.mp4 --output tracked.mp4

Any tracker of the package fits, whose `update` takes and gives supervision's Detections.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain, tee
from typing import Any

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from detframe.inference import Detector, read_video


def track(
    detector: Detector, frames: Iterable[np.ndarray], tracker: Any, score: float = 0.1, batch_size: int = 8
) -> Iterator[tuple[np.ndarray, sv.Detections]]:
    """Each RGB frame with its objects, which have `tracker_id`; frames are predicted in batches.

    Args:
        score: what the tracker hears of; ByteTrack also follows objects by what is uncertain.
    """
    shown, predicted = tee(frames)
    predictions = detector.predict_iter(predicted, batch_size=batch_size, score_threshold=score)
    for frame, prediction in zip(shown, predictions, strict=True):
        found = tracker.update(prediction.to_supervision())
        yield frame, found[found.tracker_id >= 0]  # -1: not yet seen often enough


def main(arguments: list[str] | None = None) -> None:
    """Track through a video, and write it with boxes and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a checkpoint or an exported file")
    parser.add_argument("--video", required=True)
    parser.add_argument("--output", required=True, help="a video, as tracked.mp4")
    parser.add_argument(
        "--score", type=float, default=0.1, help="of detections that the tracker hears of (%(default)s)"
    )
    parser.add_argument("--new-score", type=float, default=0.5, help="from which on a track begins (%(default)s)")
    args = parser.parse_args(arguments)

    frames = read_video(args.video)
    first = next(frames)
    info = sv.VideoInfo.from_video_path(args.video)
    info.height, info.width = first.shape[:2]  # upright, where the video says how to turn it
    tracker = ByteTrackTracker(
        frame_rate=info.fps, track_activation_threshold=args.new_score, high_conf_det_threshold=args.new_score
    )
    by_track = {"color_lookup": sv.ColorLookup.TRACK}
    boxes, traces, labels = sv.BoxAnnotator(**by_track), sv.TraceAnnotator(**by_track), sv.LabelAnnotator(**by_track)
    objects: set[int] = set()
    with sv.VideoSink(args.output, info) as sink:
        for frame, found in track(Detector.load(args.weights), chain([first], frames), tracker, args.score):
            texts = [f"{name} {number}" for name, number in zip(found["class_name"], found.tracker_id, strict=True)]
            drawn = traces.annotate(boxes.annotate(frame[:, :, ::-1].copy(), found), found)  # supervision draws BGR
            sink.write_frame(labels.annotate(drawn, found, texts))
            objects.update(found.tracker_id.tolist())
    print(f"{args.output}: {len(objects)} objects followed")


if __name__ == "__main__":
    main()
