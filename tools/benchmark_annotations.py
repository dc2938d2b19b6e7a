#!/usr/bin/env python
"""How much memory and time a large COCO file takes: its first reading, later starts, and each worker process.

Writes a synthetic file, reads it in a process of its own, and removes it again:

    python tools/benchmark_annotations.py --images 100000
    python tools/benchmark_annotations.py --images 100000 --pycocotools

Memory is by how much the peak of the process rises above what it held before. A start reads the records, and draws the
first batches; images are not made, not looked for and not decoded. tests/data/test_shared_arrays.py measures workers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

CLASSES = 80
BOXES = 7  # of an image, on average


def write_file(path: Path, images: int, boxes: int = BOXES, shuffled: bool = False) -> None:
    """A COCO file of boxes.

    Args:
        boxes: of an image.
        shuffled: annotations stand in any order, not image by image.
    """
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {"description": "synthetic"}, "images": [')
        _write(file, (_image(number) for number in range(1, images + 1)))
        file.write('], "annotations": [')
        _write(file, _annotations(images, boxes, shuffled))
        file.write('], "categories": [')
        _write(file, (json.dumps({"id": number, "name": f"class {number}"}) for number in range(1, CLASSES + 1)))
        file.write("]}")


def _write(file: TextIO, members: Iterator[str]) -> None:
    for number, member in enumerate(members):
        file.write(f", {member}" if number else member)


def _image(number: int) -> str:
    return f'{{"id": {number}, "file_name": "{number:012d}.jpg", "width": 640, "height": 480}}'


def _annotations(images: int, boxes: int, shuffled: bool) -> Iterator[str]:
    draw = random.Random(0).random
    for number in range(images * boxes):
        image = int(draw() * images) if shuffled else number // boxes
        x, y = round(560 * draw(), 2), round(400 * draw(), 2)
        width, height = round(4 + 70 * draw(), 2), round(4 + 70 * draw(), 2)
        yield (
            f'{{"id": {number + 1}, "image_id": {image + 1}, "category_id": {int(draw() * CLASSES) + 1}, '
            f'"bbox": [{x}, {y}, {width}, {height}], "area": {width * height:.2f}, "iscrowd": 0}}'
        )


# ---------------------------------------------------------------------------------------------- what is measured
_START = """
import sys, time
start = time.perf_counter()
from detframe.data import load_records
from detframe.data.bucketing import build_sampler
def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024
ready = time.perf_counter()
open("/proc/self/clear_refs", "w").write("5")
before, used = status("VmHWM"), time.process_time()
records = load_records(["large"], sys.argv[1])
build_sampler(records, 16, 1, True).window(0)
seconds = time.perf_counter() - ready
packed = sum(array.nbytes for part in records._parts for array in part.arrays.values())
print(time.process_time() - used, seconds, status("VmHWM") - before, packed)
"""
_PYCOCOTOOLS = """
import contextlib, io, sys, time
from pycocotools.coco import COCO
def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")
before, start, used = status("VmHWM"), time.perf_counter(), time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(sys.argv[1])
print(time.process_time() - used, time.perf_counter() - start, status("VmHWM") - before, 0)
"""


def measured(code: str, path: Path, cache: Path) -> tuple[str, float, float]:
    """How long a start in a process of its own took, bytes by which the peak rose, and bytes of the packed arrays."""
    environment = {**os.environ, "DETFRAME_CACHE": str(cache)}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    busy, seconds, peak, packed = map(float, done.stdout.split())
    return f"{seconds:.2f} s, {busy:.2f} s of them at work", peak, packed


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print one line for each start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shuffled", action="store_true", help="annotations in any order, not image by image")
    parser.add_argument("--pycocotools", action="store_true", help="measure pycocotools' COCO(file) too")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="detframe-") as name:
        folder = Path(name)
        (folder / "images").mkdir()
        file, catalog = folder / "large.json", folder / "catalog.yaml"
        started = time.perf_counter()
        write_file(file, args.images, shuffled=args.shuffled)
        fields = {"format": "coco", "images": str(folder / "images"), "annotations": str(file)}
        catalog.write_text(json.dumps({"large": fields}))
        size = file.stat().st_size
        print(f"{args.images} images, {size / 1e6:.0f} MB of JSON, written in {time.perf_counter() - started:.0f} s")
        for what in ("first start", "second start"):
            seconds, peak, packed = measured(_START, catalog, folder / "cache")
            print(f"{what}: {seconds}, peak {peak / 1e6:.0f} MB, {peak / packed:.2f} x {packed / 1e6:.0f} MB packed")
        if args.pycocotools:
            seconds, peak, _ = measured(_PYCOCOTOOLS, file, folder / "cache")
            print(f"pycocotools: {seconds}, peak {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
