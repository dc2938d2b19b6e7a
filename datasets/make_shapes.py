"""Make the built-in data set "shapes": small pictures of circles, squares, triangles, stars and crosses, as COCO JSON.

    python datasets/make_shapes.py [--output datasets/shapes] [--train 800] [--val 120] [--seed 0] [--size 192]
                                   [--small]

What is in it: five classes whose category ids have gaps; objects from 8 pixels to half of the image's longer side, some
lying over others; boxes, polygon masks and four keypoints per object; crowds (one RLE mask around a group of tiny
things, `iscrowd` 1) in about one image of twenty, and as many images without anything; portrait, landscape and square
images on smooth or noisy backgrounds.

Boxes and masks are amodal: they describe the whole object, also where another lies over it. At least 60 per cent of
every object is visible. A keypoint has visibility 2 where it can be seen and 1 where another object hides it. "left"
and "right" are sides of the object as it stands upright, so a mirrored picture exchanges them.

The same arguments give the same bytes (with the same versions of numpy and OpenCV). Every image has a random stream of
its own, so a smaller set is the beginning of a larger one. Running the script again does nothing when the set is
complete.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

VERSION = 1
CATEGORY_IDS = {"circle": 1, "square": 3, "triangle": 7, "star": 8, "cross": 12}
KEYPOINTS = ("top", "bottom", "left_side", "right_side")
SKELETON = ((1, 2), (3, 4))
MIN_OBJECT = 8.0  # pixels
SMALL_OBJECT = (6.0, 16.0)  # pixels, of the set of small objects
MIN_VISIBLE = 0.6  # of an object's area
MAX_BOX_IOU = 0.3
CROWD_RATE = EMPTY_RATE = 0.05
SUBPIXEL_BITS = 6  # OpenCV draws with fixed-point coordinates of this many fractional bits


def _circle() -> tuple[np.ndarray, np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points, points[[24, 8, 16, 0]]


def _square() -> tuple[np.ndarray, np.ndarray]:
    points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float) * 0.85
    return points, np.array([[0, -1], [0, 1], [-1, 0], [1, 0]]) * 0.85


def _triangle() -> tuple[np.ndarray, np.ndarray]:
    points = np.array([[0, -1], [1, 0.8], [-1, 0.8]], dtype=float)
    return points, np.array([[0, -1], [0, 0.8], [-1, 0.8], [1, 0.8]])


def _star() -> tuple[np.ndarray, np.ndarray]:
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return points, points[[0, 5, 8, 2]]


def _cross() -> tuple[np.ndarray, np.ndarray]:
    a, b = 0.3, 0.95
    points = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]
    return np.array(points), np.array([[0, -b], [0, b], [-b, 0], [b, 0]])


# name -> (outline (V, 2), keypoints (4, 2)), within the unit circle or a little beyond, y down
OUTLINES = {"circle": _circle(), "square": _square(), "triangle": _triangle(), "star": _star(), "cross": _cross()}


@dataclass
class Scene:
    """One picture while it is painted."""

    image: np.ndarray  # uint8 (H, W, 3), BGR
    owner: np.ndarray = field(init=False)  # int32 (H, W): which object is on top, -1 for none
    boxes: list[np.ndarray] = field(default_factory=list)  # x1, y1, x2, y2 of every object and crowd
    areas: list[int] = field(default_factory=list)  # pixels when nothing lies over it
    solid: list[bool] = field(default_factory=list)  # nothing may lie over it
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = np.full(self.image.shape[:2], -1, dtype=np.int32)

    def has_room(self, mask: np.ndarray, box: np.ndarray) -> bool:
        """Whether an object may be put on top here."""
        covered = np.bincount(self.owner[mask] + 1, minlength=len(self.areas) + 1)[1:]
        for index, area in enumerate(self.areas):
            if self.solid[index] and _box_iou(box, self.boxes[index]) > 0:
                return False
            visible = np.count_nonzero(self.owner == index) - covered[index]
            if visible < MIN_VISIBLE * area or _box_iou(box, self.boxes[index]) > MAX_BOX_IOU:
                return False
        return True

    def add(self, mask: np.ndarray, box: np.ndarray, annotation: dict[str, Any], solid: bool = False) -> None:
        self.owner[mask] = len(self.areas)
        self.areas.append(int(mask.sum()))
        self.boxes.append(box)
        self.solid.append(solid)
        self.annotations.append(annotation)


def _box_iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inter = sides[0] * sides[1]
    return float(inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter))


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Pixel-edge coordinates as OpenCV's fixed-point ones, where whole numbers are pixel centres."""
    return np.round((points - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _paint(image: np.ndarray, outline: np.ndarray, colour: Any, line_type: int) -> None:
    cv2.fillPoly(image, [_fixed_point(outline)], colour, line_type, SUBPIXEL_BITS)


def _mask(outline: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    canvas = np.zeros(shape[:2], dtype=np.uint8)
    _paint(canvas, outline, 1, cv2.LINE_8)
    return canvas.astype(bool)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient or soft blotches, with a little noise over it; float (H, W, 3)."""
    base = rng.uniform(50, 205, 3)
    other = np.clip(base + rng.uniform(-55, 55, 3), 20, 235)
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        x, y = np.meshgrid(np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height))
        share = np.clip(0.5 + 0.7 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)
    else:
        coarse = rng.random((height // 24 + 2, width // 24 + 2)).astype(np.float32)
        share = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(1, 9)
    return base + share[..., None] * (other - base) + noise


def _colour(rng: np.random.Generator, under: np.ndarray) -> tuple[float, float, float]:
    """A colour well apart from the pixels (M, 3) that it will lie on and from those around it."""
    candidates = rng.uniform(0, 255, (24, 3))
    seen = under[:: max(1, len(under) // 64)].astype(float)
    distance = np.linalg.norm(candidates[:, None] - seen[None], axis=2).min(axis=1)
    good = candidates[distance > 120]
    best = good[0] if len(good) else candidates[distance.argmax()]
    return (float(best[0]), float(best[1]), float(best[2]))


def _place(rng: np.random.Generator, name: str, size: float, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Outline and keypoints in pixels, somewhere inside the image, the longer side of the box `size` long."""
    outline, keypoints = OUTLINES[name]
    angle = 0.0 if name == "circle" else rng.uniform(-0.35, 0.35)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch = np.array([rng.uniform(0.8, 1.0), 1.0]) if rng.random() < 0.5 else np.array([1.0, rng.uniform(0.8, 1.0)])
    outline, keypoints = outline * stretch @ rotation, keypoints * stretch @ rotation
    low, high = outline.min(0), outline.max(0)
    scale = size / (high - low).max()
    free = np.array([shape[1], shape[0]]) - (high - low) * scale
    shift = rng.uniform(0, 1, 2) * free - low * scale
    limit = np.array([shape[1], shape[0]], dtype=float)
    return np.clip(np.round(outline * scale + shift, 2), 0, limit), np.round(keypoints * scale + shift, 2)


def _shoelace(outline: np.ndarray) -> float:
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _add_object(scene: Scene, rng: np.random.Generator, size: float) -> None:
    """Put one object on top, if a place for it is found."""
    name = str(rng.choice(list(CATEGORY_IDS)))
    for _ in range(20):
        outline, keypoints = _place(rng, name, size, scene.image.shape)
        box = np.concatenate([outline.min(0), outline.max(0)])
        mask = _mask(outline, scene.image.shape)
        if not scene.has_room(mask, box):
            continue
        around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        _paint(scene.image, outline, _colour(rng, scene.image[around]), cv2.LINE_AA)
        width, height = box[2:] - box[:2]
        annotation = {
            "category_id": CATEGORY_IDS[name],
            "bbox": [round(float(v), 2) for v in (box[0], box[1], width, height)],
            "area": round(_shoelace(outline), 2),
            "iscrowd": 0,
            "segmentation": [[round(float(v), 2) for v in outline.reshape(-1)]],
            "keypoints": keypoints.tolist(),
            "num_keypoints": len(KEYPOINTS),
        }
        scene.add(mask, box, annotation)
        return


def _add_crowd(scene: Scene, rng: np.random.Generator) -> None:
    """A group of tiny things of one class, annotated as one crowd."""
    height, width = scene.image.shape[:2]
    extent = rng.uniform(0.2, 0.35, 2) * [width, height]
    start = rng.uniform(0, 1, 2) * ([width, height] - extent)
    name = str(rng.choice(list(CATEGORY_IDS)))
    region = np.s_[int(start[1]) : int(start[1] + extent[1]), int(start[0]) : int(start[0] + extent[0])]
    colour = _colour(rng, scene.image[region].reshape(-1, 3))
    mask = np.zeros((height, width), dtype=bool)
    for y in np.arange(start[1], start[1] + extent[1] - 6, 7):
        for x in np.arange(start[0], start[0] + extent[0] - 6, 7):
            if rng.random() < 0.8:
                outline = _place(rng, name, 5.0, (7, 7))[0] + [x, y]
                _paint(scene.image, outline, colour, cv2.LINE_AA)
                mask |= _mask(outline, (height, width))
    if not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
    annotation = {
        "category_id": CATEGORY_IDS[name],
        "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
        "area": float(mask.sum()),
        "iscrowd": 1,
        "segmentation": {"size": [height, width], "counts": _run_lengths(mask)},
        "keypoints": [0] * 3 * len(KEYPOINTS),
        "num_keypoints": 0,
    }
    scene.add(mask, box, annotation, solid=True)


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, beginning with zeros."""
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(n) for n in np.diff(np.concatenate([[0], changes, [mask.size]]))]


def _finish_keypoints(scene: Scene) -> None:
    """Write keypoints as COCO's flat list, with visibility 1 where another object lies over the point."""
    for index, annotation in enumerate(scene.annotations):
        if annotation["iscrowd"]:
            continue
        centre = (scene.boxes[index][:2] + scene.boxes[index][2:]) / 2
        flat: list[float] = []
        for x, y in annotation["keypoints"]:
            # A point on the outline belongs to no pixel for certain; look a little further inside.
            column, row = (np.array([x, y]) * 0.8 + centre * 0.2).astype(int)
            hidden = int(scene.owner[row, column]) > index
            flat += [float(x), float(y), 1 if hidden else 2]
        annotation["keypoints"] = flat


def _image_shape(rng: np.random.Generator, size: int) -> tuple[int, int]:
    longer = size * rng.choice([5 / 6, 11 / 12, 1.0])
    shorter = longer * rng.choice([0.7, 0.75, 0.85, 1.0])
    sides = [max(32, round(side / 8) * 8) for side in (longer, shorter)]
    return (sides[0], sides[1]) if rng.random() < 0.4 else (sides[1], sides[0])


def draw_scene(rng: np.random.Generator, size: int, small: bool = False) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One picture, uint8 BGR (H, W, 3), and its annotations without ids."""
    height, width = _image_shape(rng, size)
    scene = Scene(np.clip(_background(rng, height, width), 0, 255).astype(np.uint8))
    if rng.random() < EMPTY_RATE:
        return scene.image, []
    if rng.random() < CROWD_RATE / (1 - EMPTY_RATE):
        _add_crowd(scene, rng)
    sizes = _object_sizes(rng, height, width, small)
    for object_size in np.sort(sizes)[::-1]:  # small ones last, so that large ones do not bury them
        _add_object(scene, rng, float(object_size))
    _finish_keypoints(scene)
    return scene.image, scene.annotations


def _object_sizes(rng: np.random.Generator, height: int, width: int, small: bool) -> np.ndarray:
    """Sizes in pixels, the smaller the more frequent: 1 to 7 of any, or 4 to 15 small ones."""
    low, high = SMALL_OBJECT if small else (MIN_OBJECT, min(max(height, width) / 2, 0.9 * min(height, width)))
    shares = rng.random(rng.integers(4, 16) if small else rng.integers(1, 8)) ** 0.8
    return low * (high / low) ** shares


def _categories() -> list[dict[str, Any]]:
    return [
        {"id": number, "name": name, "supercategory": "shape", "keypoints": list(KEYPOINTS), "skeleton": list(SKELETON)}
        for name, number in CATEGORY_IDS.items()
    ]


def _is_complete(output: Path, split: str, parameters: dict[str, int]) -> bool:
    try:
        info = json.loads((output / "annotations" / f"{split}.json").read_text(encoding="utf-8"))["info"]
    except (OSError, ValueError, KeyError):
        return False
    files = list((output / split).glob("*.jpg"))
    return info.get("parameters") == parameters and len(files) == parameters["count"]


def _make_split(output: Path, split: str, parameters: dict[str, int]) -> None:
    folder = output / split
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    first_id = 1 if split == "train" else 1_000_001
    for index in range(parameters["count"]):
        rng = np.random.default_rng([parameters["seed"], 0 if split == "train" else 1, index])
        image, objects = draw_scene(rng, parameters["size"], "small" in parameters)
        name = f"{index + 1:06d}.jpg"
        if not cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"could not write {folder / name}")
        image_id = first_id + index
        images.append({"id": image_id, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        annotations += [{"id": len(annotations) + n, "image_id": image_id, **o} for n, o in enumerate(objects, 1)]
    info = {"description": "detframe's built-in data set 'shapes'", "parameters": parameters}
    data = {"info": info, "images": images, "annotations": annotations, "categories": _categories()}
    target = output / "annotations" / f"{split}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    # The JSON appears last and whole: it is what says that the split is complete.
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        file.write(json.dumps(data))
    os.chmod(file.name, 0o644)  # temporary files are closed to other users
    os.replace(file.name, target)


def default_output(small: bool = False) -> Path:
    """Where the shipped catalog looks for the set."""
    name = "shapes_small" if small else "shapes"
    if root := os.environ.get("DETFRAME_DATASETS"):
        return Path(root).expanduser() / name
    here = Path(__file__).resolve().parent
    return (Path("datasets") if here.parent.name == "shipped" else here) / name


def make_shapes(
    output: str | os.PathLike[str] | None = None,
    train: int = 800,
    val: int = 120,
    seed: int = 0,
    size: int = 192,
    small: bool = False,
) -> Path:
    """Write `train/`, `val/`, `annotations/train.json` and `annotations/val.json` below `output`, and return it.

    Args:
        output: folder; by default where the shipped catalog looks: `shapes` below DETFRAME_DATASETS or `datasets`.
        train, val: numbers of images.
        seed: of everything that is drawn; 0 or more.
        size: length of the longest side of an image, in pixels, 48 or more.
        small: objects of 6 to 16 pixels only, 4 to 15 an image; the set is then called shapes_small.

    Raises:
        ValueError: a number out of range.
        OSError: the folder cannot be written.
    """
    if size < 48 or seed < 0 or min(train, val) < 0:
        raise ValueError(
            f"size must be 48 or more, the rest 0 or more; got size {size}, seed {seed}, {train} + {val} images"
        )
    folder = Path(output) if output is not None else default_output(small)
    for split, count in (("train", train), ("val", val)):
        parameters = {"version": VERSION, "count": count, "seed": seed, "size": size, **({"small": 1} if small else {})}
        if not _is_complete(folder, split, parameters):
            _make_split(folder, split, parameters)
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=None, help="folder (default: where the shipped catalog looks)")
    parser.add_argument("--train", type=int, default=800, help="number of training images (default: 800)")
    parser.add_argument("--val", type=int, default=120, help="number of validation images (default: 120)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=192, help="length of the longest side in pixels (default: 192)")
    parser.add_argument("--small", action="store_true", help="objects of 6 to 16 pixels only, as the set shapes_small")
    args = parser.parse_args()
    start = time.perf_counter()
    folder = make_shapes(args.output, args.train, args.val, args.seed, args.size, args.small)
    print(f"shapes: {args.train} + {args.val} images in {folder} ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
