"""Small objects in a large picture: predicted whole, in slices by SAHI, and in slices by supervision, and drawn.

    pip install detframe sahi supervision
    python examples/slicing.py --weights model_best.pth --image field.png --slice 300 --output drawn

With boxes in a VOC file beside the picture (field.xml), it also counts which of them were found.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import supervision as sv
from sahi.predict import get_sliced_prediction

from detframe.inference import Detector
from detframe.integrations.sahi import DetframeDetectionModel


def whole(detector: Detector, image: np.ndarray, score: float) -> sv.Detections:
    """The picture as a whole, made smaller by the detector where it is larger than what it was trained on."""
    return detector.predict(image, score_threshold=score)[0].to_supervision()


def by_supervision(detector: Detector, image: np.ndarray, score: float, size: int) -> sv.Detections:
    """In slices of `size` pixels; duplicates in overlaps are suppressed."""

    def callback(tiles: list[np.ndarray]) -> list[sv.Detections]:
        return [prediction.to_supervision() for prediction in detector.predict(tiles, score_threshold=score)]

    return sv.InferenceSlicer(callback, slice_wh=size, overlap_wh=size // 5, batch_size=8)(image)


def by_sahi(detector: Detector, image: np.ndarray, score: float, size: int, whole_too: bool) -> sv.Detections:
    """In slices of `size` pixels; parts of one object in several slices are merged.

    Args:
        whole_too: predict the whole picture as well and merge what is found there, as SAHI does when not told
            otherwise. That helps with objects larger than a slice; of small ones, a group swallows its members.
    """
    model = DetframeDetectionModel(model=detector, confidence_threshold=score)
    found = get_sliced_prediction(
        image, model, slice_height=size, slice_width=size, batch_size=8, perform_standard_pred=whole_too, verbose=0
    ).object_prediction_list
    if not found:
        return sv.Detections.empty()
    return sv.Detections(
        xyxy=np.array([one.bbox.to_xyxy() for one in found], dtype=float),
        confidence=np.array([one.score.value for one in found]),
        class_id=np.array([detector.category_ids.index(one.category.id) for one in found]),
    )


def read_truth(path: Path) -> np.ndarray:
    """Boxes (N, 4) of a VOC file, xyxy."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    rows = [
        [float(one.findtext(f"bndbox/{name}", "0")) for name in corners]
        for one in ElementTree.parse(path).findall("object")
    ]
    return np.array(rows).reshape(-1, 4)


def count_found(found: sv.Detections, truth: np.ndarray, iou: float = 0.5) -> int:
    """How many boxes of the truth were found: each detection, the best first, takes the free one it overlaps most."""
    if len(found) == 0 or len(truth) == 0:
        return 0
    overlaps = sv.box_iou_batch(truth, found.xyxy[np.argsort(-found.confidence)])
    for column in overlaps.T:
        best = int(column.argmax())
        if column[best] >= iou:
            overlaps[best] = -1.0  # taken
    return int((overlaps == -1.0).all(1).sum())


def main(arguments: list[str] | None = None) -> None:
    """Detect whole and in slices, and draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a checkpoint or an exported file")
    parser.add_argument("--image", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path, help="a folder for the drawn pictures")
    parser.add_argument("--slice", type=int, default=512, help="side of a slice in pixels (%(default)s)")
    parser.add_argument("--score", type=float, default=0.5, help="(%(default)s)")
    parser.add_argument("--from-x", type=int, default=0, help="count only right of this column (%(default)s)")
    args = parser.parse_args(arguments)

    detector = Detector.load(args.weights)
    image = np.asarray(PIL.Image.open(args.image).convert("RGB"))
    beside = args.image.with_suffix(".xml")
    truth = read_truth(beside) if beside.is_file() else None
    args.output.mkdir(parents=True, exist_ok=True)
    ways: dict[str, Callable[[], sv.Detections]] = {
        "whole": lambda: whole(detector, image, args.score),
        "supervision": lambda: by_supervision(detector, image, args.score, args.slice),
        "sahi": lambda: by_sahi(detector, image, args.score, args.slice, whole_too=False),
        "sahi_and_whole": lambda: by_sahi(detector, image, args.score, args.slice, whole_too=True),
    }
    for name, way in ways.items():
        start = time.perf_counter()
        found = way()
        seconds = time.perf_counter() - start
        drawn = sv.BoxAnnotator(thickness=2).annotate(image.copy(), found)
        PIL.Image.fromarray(drawn).save(args.output / f"{args.image.stem}_{name}.png")
        text = f"{name}: {len(found)} objects in {seconds:.1f} s"
        if truth is not None:
            right = found[found.xyxy[:, [0, 2]].mean(1) >= args.from_x]
            boxes = truth[truth[:, [0, 2]].mean(1) >= args.from_x]
            text += f"; of {len(boxes)} boxes {count_found(right, boxes)} found, by {len(right)} detections"
        print(text)


if __name__ == "__main__":
    main()
