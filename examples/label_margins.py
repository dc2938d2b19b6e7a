"""How exactly boxes are drawn, for dark objects on a light ground: what AP their own spread leaves to any detector.

    python examples/label_margins.py --train datasets/fingerlings/train --val datasets/fingerlings/valid

In each annotated box the dark silhouette is found, and its tight box. A linear fit over the training boxes says how
much wider people draw than that; what it does not explain on the validation boxes is their spread. A detector that
found every silhouette exactly, nothing else, and widened each by the fit would have the AP that is printed: with all
scores alike, AP at an IoU threshold is the square of the share of boxes that reach it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
DARKNESS = 0.35  # of the way from the ground to the darkest pixel: from there on a pixel belongs to the object
SMALLEST = 8  # pixels of a silhouette


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the spread of the labels leaves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--train", type=Path, required=True, help="folder with images/ and labels/ (YOLO) that the fit is made on"
    )
    parser.add_argument("--val", type=Path, required=True, help="the folder that is compared with it")
    args = parser.parse_args(arguments)
    fit = fit_margins(*boxes_of(args.train))
    tight, drawn = boxes_of(args.val)
    overlaps = iou(tight + features(tight) @ fit, drawn)
    shares = np.array([(overlaps >= threshold).mean() for threshold in THRESHOLDS])
    print(f"{len(drawn)} boxes; mean IoU of the fit {overlaps.mean():.3f}; sides lie {(drawn - tight).std(0).round(1)}")
    print(f"pixels (standard deviation) around them; AP {100 * (shares**2).mean():.1f}", end=", ")
    print(f"AP50 {100 * shares[0] ** 2:.1f}, AP75 {100 * shares[5] ** 2:.1f}")


def boxes_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tight and annotated boxes, both (B, 4) as x1, y1, x2, y2 in pixels, of all images of a folder."""
    pairs = [pair for image in sorted((folder / "images").iterdir()) for pair in _of_image(image)]
    if not pairs:
        raise SystemExit(f"{folder} has no box with a silhouette in it")
    tight, drawn = zip(*pairs, strict=True)
    return np.array(tight, float), np.array(drawn, float)


def _of_image(path: Path) -> Iterator[tuple[tuple, tuple]]:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    height, width = grey.shape
    for line in (path.parent.parent / "labels" / f"{path.stem}.txt").read_text(encoding="utf-8").splitlines():
        _, x, y, w, h = map(float, line.split())
        drawn = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        left, top, right, bottom = (round(value) for value in np.clip(drawn, 0, [width, height] * 2))
        tight = silhouette(grey[top:bottom, left:right])
        if tight is not None:
            yield (left + tight[0], top + tight[1], left + tight[2], top + tight[3]), drawn


def silhouette(patch: np.ndarray) -> tuple[int, int, int, int] | None:
    """The tight box of the largest dark region of a grey patch (h, w); None where there is none."""
    if min(patch.shape) < 5:
        return None
    ground = np.median(patch)
    dark = patch < ground - DARKNESS * (ground - patch.min())
    _, _, regions, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    if len(regions) < 2:
        return None
    x, y, w, h, area = regions[1 + regions[1:, cv2.CC_STAT_AREA].argmax()]
    return (x, y, x + w, y + h) if area >= SMALLEST else None


def features(boxes: np.ndarray) -> np.ndarray:
    """(B, 7): what the margins are fitted on, of boxes (B, 4)."""
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.stack([np.ones_like(w), w, h, np.sqrt(w * h), w * w, h * h, w * h], 1)


def fit_margins(tight: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(7, 4): the least squares fit of how much wider boxes are drawn than silhouettes are."""
    return np.linalg.lstsq(features(tight), drawn - tight, rcond=None)[0]


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(B,): of each pair of boxes (B, 4)."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    both = np.clip(sides, 0, None).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return both / (areas[0] + areas[1] - both)


if __name__ == "__main__":
    main()
