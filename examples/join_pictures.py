"""Large photographs out of a YOLO data set of small pictures, so many beside and below each other, with their boxes.

    python examples/join_pictures.py datasets/aerial_cars --output photographs --side 3
    detframe train --data photographs

To see what becomes of small objects in large pictures, where data of that kind are not at hand.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

PARTS = ("train", "val", "valid", "test")  # folders of a data set, each with images/ and labels/
PIXELS = 640  # a side of each picture in a photograph


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the photographs of every part, and data.yaml."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with data.yaml and images/ and labels/ in each part")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write the like into")
    parser.add_argument("--side", type=int, default=3, metavar="N", help="N pictures beside and below each other (3)")
    args = parser.parse_args(arguments)
    parts = [part for part in PARTS if (args.data / part / "images").is_dir()]
    if not parts:
        raise SystemExit(f"{args.data} has none of the folders {', '.join(f'{part}/images' for part in PARTS)}")
    for part in parts:
        join(args.data / part, args.output / part, args.side)
    shutil.copy(args.data / "data.yaml", args.output)


def join(source: Path, target: Path, side: int) -> None:
    """The photographs of a part; pictures that are too few for another one are left out."""
    for name in ("images", "labels"):
        (target / name).mkdir(parents=True, exist_ok=True)
    files = sorted((source / "images").iterdir())
    for number, first in enumerate(range(0, len(files) - side**2 + 1, side**2)):
        some = files[first : first + side**2]
        pictures = [cv2.resize(cv2.imread(str(file)), (PIXELS, PIXELS)) for file in some]
        rows = [np.hstack(pictures[start : start + side]) for start in range(0, side**2, side)]
        cv2.imwrite(str(target / "images" / f"{number:04}.jpg"), np.vstack(rows))
        labels = [source / "labels" / f"{file.stem}.txt" for file in some]
        lines = [line for i, file in enumerate(labels) for line in moved(file.read_text(), i // side, i % side, side)]
        (target / "labels" / f"{number:04}.txt").write_text("\n".join(lines))


def moved(text: str, row: int, column: int, side: int) -> Iterator[str]:
    """Lines of a label file (class, x, y, width, height in parts of the picture) as those of its photograph."""
    for line in text.splitlines():
        kind, x, y, width, height = line.split()
        place = [(column + float(x)) / side, (row + float(y)) / side, float(width) / side, float(height) / side]
        yield " ".join([kind, *(f"{value:.6f}" for value in place)])


if __name__ == "__main__":
    main()
