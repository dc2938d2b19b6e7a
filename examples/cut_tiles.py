"""Large pictures with boxes (VOC XML beside each) cut into tiles to train on, by SAHI; the right part is set apart.

    pip install detframe sahi
    python examples/cut_tiles.py field.png forest.png --output tiles --size 300
    detframe train --data tiles

OUTPUT/train and OUTPUT/valid get tiles and their _annotations.coco.json. A box that the border between the two parts,
or that of a tile, cuts stays where at least half of it lies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import PIL.Image
from sahi.slicing import slice_coco

Box = tuple[float, float, float, float]


def read_boxes(path: Path) -> list[tuple[str, Box]]:
    """(class, x1 y1 x2 y2) of the objects of a VOC file."""
    objects = ElementTree.parse(path).findall("object")
    corners = [[float(o.findtext(f"bndbox/{name}", "0")) for name in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
    return [(o.findtext("name", ""), (x1, y1, x2, y2)) for o, (x1, y1, x2, y2) in zip(objects, corners, strict=True)]


def within(box: Box, left: int, right: int) -> Box | None:
    """What of a box lies between two columns, from the left one on; None for less than half of it."""
    x1, x2 = max(box[0], left), min(box[2], right)
    return (x1 - left, box[1], x2 - left, box[3]) if x2 - x1 >= 0.5 * (box[2] - box[0]) else None


def write_part(images: list[Path], folder: Path, start: float, end: float) -> None:
    """The part of each picture between two fractions of its width, and `all.json` with their boxes."""
    coco: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": []}
    names = sorted({name for path in images for name, _ in read_boxes(path.with_suffix(".xml"))})
    coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    for number, path in enumerate(images, 1):
        image = PIL.Image.open(path).convert("RGB")
        left, right = round(start * image.width), round(end * image.width)
        image.crop((left, 0, right, image.height)).save(folder / f"{path.stem}.png")
        size = {"width": right - left, "height": image.height}
        coco["images"].append({"id": number, "file_name": f"{path.stem}.png", **size})
        for name, box in read_boxes(path.with_suffix(".xml")):
            if (part := within(box, left, right)) is not None:
                x, y, w, h = part[0], part[1], part[2] - part[0], part[3] - part[1]
                row = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": names.index(name) + 1}
                coco["annotations"].append({**row, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    (folder / "all.json").write_text(json.dumps(coco))


def cut(images: list[Path], output: Path, size: int, overlap: float, val: float) -> None:
    """Tiles of both parts of the pictures."""
    for part, start, end in (("train", 0.0, 1 - val), ("valid", 1 - val, 1.0)):
        with tempfile.TemporaryDirectory() as folder:
            write_part(images, Path(folder), start, end)
            coco, _ = slice_coco(
                coco_annotation_file_path=f"{folder}/all.json",
                image_dir=folder,
                output_coco_annotation_file_name="",
                output_dir=str(output / part),
                slice_height=size,
                slice_width=size,
                overlap_height_ratio=overlap,
                overlap_width_ratio=overlap,
                min_area_ratio=0.5,
                out_ext=".png",
                verbose=False,
            )
        (output / part / "_annotations.coco.json").write_text(json.dumps(coco))
        print(f"{output / part}: {len(coco['images'])} tiles, {len(coco['annotations'])} boxes")


def main(arguments: list[str] | None = None) -> None:
    """Cut the images that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=300, help="of the tiles, in pixels (%(default)s)")
    parser.add_argument("--overlap", type=float, default=0.4, help="of neighbours, as a fraction (%(default)s)")
    parser.add_argument("--val", type=float, default=0.33, help="of the width, to evaluate on (%(default)s)")
    args = parser.parse_args(arguments)
    cut(args.images, args.output, args.size, args.overlap, args.val)


if __name__ == "__main__":
    main()
