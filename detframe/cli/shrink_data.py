"""Write a smaller copy of a data set, to see what a detector loses with the pixels: tools/shrink_data.py."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import base_parser, local_path
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.media import check_output
from detframe.config.paths import expanded
from detframe.errors import FileAccessError
from detframe.files import safe_name, write_json

if TYPE_CHECKING:
    import numpy as np

    from detframe.arrays.pixels import PixelForm
    from detframe.data import Records

logger = logging.getLogger(__name__)

EPILOG = """\
Images are averaged over areas and written as PNG, boxes are scaled; masks and keypoints are left out. Channels and
values of 16 bits are kept; what a PNG cannot hold, as floating-point or five channels, is written as .npy. The copy is
in COCO's format, and the last lines say what to write into a catalog to use it.

example: tools/shrink_data.py --datasets bccd_trainval bccd_test --factor 0.5 --output datasets/bccd_half
"""


_OF_PNG, _GREY_AND_ALPHA = (1, 3, 4), 2  # channels; OpenCV writes no grey with transparency


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("shrink-data", "Write a copy of data sets with smaller images.", EPILOG)
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="names in the catalog")
    parser.add_argument(
        "--catalog", default="", type=local_path, metavar="FILE", help="your own catalog, read before the shipped one"
    )
    parser.add_argument("--factor", type=_factor, default=0.5, metavar="F", help="new sides over old ones (0.5)")
    parser.add_argument(
        "--output", required=True, type=local_path, metavar="DIR", help="folder for the images and annotations"
    )
    return run_command(parser, argv, _run)


def _factor(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return number


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    from detframe.data import load_records

    folder = expanded(args.output).absolute()
    rows = []
    check_output(folder)
    read = {name: load_records([name], args.catalog, on_missing="raise") for name in args.datasets}
    for name, records in read.items():
        images, annotations = folder / safe_name(name), folder / "annotations" / f"{safe_name(name)}.json"
        shrink(records, args.factor, images, annotations)
        rows.append(f"{name}_small: {{format: coco, images: {images}, annotations: {annotations}}}")
        logger.info("%d images in %s", len(records), images)
    logger.info("for the catalog:\n%s", "\n".join(rows))
    return 0


def shrink(records: Records, factor: float, images: Path, annotations: Path) -> None:
    """Write the images of `records` in `factor` of their size into `images`, and their boxes as COCO JSON.

    Raises:
        OSError: an image cannot be read or written.
    """
    images.mkdir(parents=True, exist_ok=True)
    metadata = records.metadata
    categories = zip(metadata.category_ids, metadata.class_names, strict=True)
    data: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    written: set[str] = set()
    for record in records:
        stem = Path(record["file_name"]).stem
        if stem in written:  # of another folder, or of another format
            stem = f"{stem}_{safe_name(str(record['image_id']))}"
        written.add(stem)
        smaller = _smaller(record["file_name"], factor)
        name, (height, width) = _write(smaller, images, stem), smaller.shape[:2]
        data["images"].append({"id": record["image_id"], "file_name": name, "height": height, "width": width})
        data["annotations"] += _annotations(record, (height, width), metadata.category_ids)
    # the JSON appears last and whole, so that an interrupted copy is not taken for a complete one
    write_json(annotations, data)


def _smaller(source: str, factor: float) -> np.ndarray:
    """Channels (h, w, C) of an image, averaged over areas: uint8, uint16 or float32."""
    from detframe.arrays.resize import area_means
    from detframe.data.images import load_pixels

    pixels = load_pixels(source, form=_form(source))
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    return area_means(pixels, (height, width))


def _form(source: str) -> PixelForm:
    """As what an image is read so that nothing of it is lost: in its own values, where it holds more than a picture."""
    from detframe.arrays.pixels import COLOURS, PixelForm
    from detframe.data.image_files import open_image
    from detframe.data.images import read_structure
    from detframe.data.tiff_values import is_grey_with_alpha, keeps_numbers

    with open_image(source) as file:
        header, layout = read_structure(file, source)
    as_stored = {
        "NPY": header.values != "uint8" or header.channels != COLOURS.channels,
        "PNG": header.channels != _GREY_AND_ALPHA,
        "TIFF": layout is not None and keeps_numbers(layout) and not is_grey_with_alpha(layout),
    }
    return PixelForm(header.channels, as_stored=True) if as_stored.get(header.format) else COLOURS


def _write(pixels: np.ndarray, folder: Path, stem: str) -> str:
    """The name of the file that holds these channels (h, w, C): a PNG if it can, else an array."""
    import cv2
    import numpy as np

    channels = pixels.shape[2]
    if channels not in _OF_PNG or pixels.dtype == np.float32:
        np.save(folder / f"{stem}.npy", pixels)
        return f"{stem}.npy"
    order = [0] if channels == 1 else [2, 1, 0, 3][:channels]
    if not cv2.imwrite(str(folder / f"{stem}.png"), np.ascontiguousarray(pixels[:, :, order])):
        raise FileAccessError(f"could not write {folder / stem}.png")
    return f"{stem}.png"


def _annotations(record: Any, size_hw: tuple[int, int], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    across, down = size_hw[1] / record["size_hw"][1], size_hw[0] / record["size_hw"][0]
    rows = zip(record["boxes"], record["labels"], record["iscrowd"], record["area"], record["ann_ids"], strict=True)
    return [
        {
            "id": int(number),
            "image_id": record["image_id"],
            "category_id": category_ids[int(label) - 1],
            "bbox": [float(x1 * across), float(y1 * down), float((x2 - x1) * across), float((y2 - y1) * down)],
            "area": float(area) * across * down,
            "iscrowd": int(crowd),
        }
        for (x1, y1, x2, y2), label, crowd, area, number in rows
    ]
