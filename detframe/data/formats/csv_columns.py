"""Which column of a CSV table holds what: by the names in its header, or by what stands in its first row.

Names are compared in lower case, without spaces, underscores and points. The words bbox, bndbox, box, roi, rel,
relative, norm and abs may stand beside the name of a side ("bbox_x1", "x_relative_min"). Of several columns for one
thing, the one that stands first in these tables is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from detframe.data.listing import IMAGE_SUFFIXES

IMAGE = (
    "filename", "filepath", "imagepath", "imgpath", "path", "imagefile", "imagefilename", "imagename", "imgname",
    "file", "image", "img", "imageid", "imgid", "imageuri", "uri", "gcsfilepath", "frame", "picture", "photo",
)  # fmt: skip
LABEL = (
    "class", "label", "classname", "labelname", "displayname", "category", "categoryname", "objectname", "species",
    "annotationtag", "tag", "classes", "labels", "object", "target", "cls", "classid", "labelid", "categoryid", "type",
    "name",
)  # fmt: skip
SPLIT = ("split", "set", "subset", "partition", "mlusage", "usage")
SCORE = ("score", "scores", "confidence", "conf", "probability", "prob")
CROWD = ("isgroupof", "groupof", "iscrowd", "crowd", "difficult", "ignore")
GEOMETRY = ("geometry", "wkt", "geom", "polygon")
BOX = ("bbox", "boundingbox", "bndbox", "box")
CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("minx", "miny", "maxx", "maxy"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("left", "top", "right", "bottom"),
    ("xtl", "ytl", "xbr", "ybr"),
    ("tlx", "tly", "brx", "bry"),
    ("topleftx", "toplefty", "bottomrightx", "bottomrighty"),
    ("upperleftcornerx", "upperleftcornery", "lowerrightcornerx", "lowerrightcornery"),
    ("xstart", "ystart", "xend", "yend"),
    ("startx", "starty", "endx", "endy"),
)
CENTRES = (
    ("xcenter", "ycenter"),
    ("xcentre", "ycentre"),
    ("centerx", "centery"),
    ("centrex", "centrey"),
    ("cx", "cy"),
    ("xc", "yc"),
)
POSITIONS = (("x", "y"), *((names[0], names[1]) for names in CORNERS))
SIZES = (("w", "h"), ("width", "height"))
IMAGE_SIZES = (
    ("imagewidth", "imageheight"),
    ("imgwidth", "imgheight"),
    ("imwidth", "imheight"),
    ("imagew", "imageh"),
    ("imgw", "imgh"),
    ("width", "height"),
)
_BESIDE = frozenset(
    ("bbox", "bndbox", "box", "boundingbox", "roi", "rel", "relative", "norm", "normalized", "abs", "absolute")
)
_SPLIT_WORDS = ("train", "training", "validate", "validation", "val", "test", "unassigned")
_PART = re.compile(r"[^a-z0-9]+")
_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """Where in a row each thing stands.

    Attributes:
        image: the name of the image.
        form: what `box` is: "corners" (x1, y1, x2, y2), "size" (x1, y1, width, height), "centre" (x, y, width, height),
            "list" (one cell with four numbers), "point" (x, y), or "" where only `geometry` gives the place.
        size_hw: height and width of the image.
        header: whether the first row is one.
    """

    image: int
    form: str
    box: tuple[int, ...] = ()
    label: int | None = None
    geometry: int | None = None
    size_hw: tuple[int, int] | None = None
    split: int | None = None
    score: int | None = None
    crowd: int | None = None
    header: bool = True
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def has_boxes(self) -> bool:
        """Whether its rows can be objects: points alone are none."""
        return bool(self.form and self.form != "point") or self.geometry is not None


def columns_of(first: Sequence[str]) -> Columns | None:
    """The columns of a table by its first row; None where it is neither a header that names an image and a place, nor a
    row as tables without header have them."""
    return _by_header(first) or _without_header(first)


def is_like_objects(first: Sequence[str]) -> bool:
    """Whether a first row names an image or a box: enough to say what a table lacks."""
    plain, sides = (_numbered(form(name) for name in first) for form in (_plain, _side))
    return _first(IMAGE, plain) is not None or bool(_box(plain, sides)[0])


def what_is_needed() -> str:
    """The columns that a table must have, for a message."""
    return (
        "a table of objects needs a column with the image (filename, image_path, ImageID, ...) and the box in four: "
        "xmin, ymin, xmax, ymax, or x1, y1, x2, y2, or x, y, width, height, or x_center, y_center, width, height; or a "
        "geometry (WKT) or bbox in one. Without header, rows must be path,x1,y1,x2,y2,class, or path,class,x1,y1,x2,y2"
    )


# -------------------------------------------------------------------------------- with a header
def _by_header(header: Sequence[str]) -> Columns | None:
    plain = _numbered(_plain(name) for name in header)
    sides = _numbered(_side(name) for name in header)
    image = _first(IMAGE, plain)
    form, box = _box(plain, sides)
    geometry = _first(GEOMETRY, plain)
    if image is None or not (form or geometry is not None):
        return None
    # without corners, `width` and `height` are those of the box
    taken = (image, *box, *([geometry] if geometry is not None else []))
    size = next(
        ((plain[h], plain[w]) for w, h in IMAGE_SIZES if w in plain and h in plain and plain[w] not in taken), None
    )
    return Columns(
        image,
        form,
        box,
        _first(LABEL, plain, taken),
        geometry,
        size,
        _first(SPLIT, plain, taken),
        _first(SCORE, plain, taken),
        _first(CROWD, plain, taken),
        names=tuple(name.strip() for name in header),
    )


def _box(plain: dict[str, int], sides: dict[str, int]) -> tuple[str, tuple[int, ...]]:
    """The form of the boxes and their columns."""
    for known in (sides, {**plain, **sides}):  # bbox_width is the box's where width is the image's
        for names in CORNERS:
            if all(name in known for name in names):
                return "corners", tuple(known[name] for name in names)
        for form, positions in (("centre", CENTRES), ("size", POSITIONS)):
            for names in ((*position, *size) for position in positions for size in SIZES):
                if all(name in known for name in names):
                    return form, tuple(known[name] for name in names)
    one = _first(BOX, plain)
    if one is not None:
        return "list", (one,)
    return ("point", (plain["x"], plain["y"])) if "x" in plain and "y" in plain else ("", ())


def _numbered(names: Iterable[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        if name:
            numbers.setdefault(name, number)
    return numbers


def _plain(name: str) -> str:
    return _PART.sub("", name.lower())


def _side(name: str) -> str:
    """The name without the words beside it; "" where there are none."""
    parts = [part for part in _PART.split(name.lower()) if part]
    left = [part for part in parts if part not in _BESIDE]
    return "".join(left) if len(left) < len(parts) else ""


def _first(names: Sequence[str], numbers: dict[str, int], taken: Sequence[int] = ()) -> int | None:
    return next((numbers[name] for name in names if name in numbers and numbers[name] not in taken), None)


# -------------------------------------------------------------------------------- without a header
def _without_header(row: Sequence[str]) -> Columns | None:
    """Columns by their number and what stands in the first row."""
    cells = [cell.strip() for cell in row]
    if len(cells) == 6 and _is_name(cells[0]) and _are_numbers(cells[1:5], empty=True):  # keras-retinanet
        return Columns(0, "corners", (1, 2, 3, 4), 5, header=False)
    if len(cells) == 6 and _is_name(cells[0]) and not _are_numbers(cells[1:2]) and _are_numbers(cells[2:]):
        return Columns(0, "corners", (2, 3, 4, 5), 1, header=False)
    if len(cells) == 8 and _is_name(cells[0]) and _are_numbers((*cells[1:3], *cells[4:])):  # TensorFlow's, without one
        return Columns(0, "corners", (4, 5, 6, 7), 3, size_hw=(2, 1), header=False)
    if len(cells) == 8 and _is_name(cells[5]) and _are_numbers((*cells[1:5], *cells[6:])):  # makesense.ai
        return Columns(5, "size", (1, 2, 3, 4), 0, size_hw=(7, 6), header=False)
    if len(cells) in (9, 10, 11) and cells[0].lower() in _SPLIT_WORDS and _is_name(cells[1]):  # AutoML
        return Columns(1, "corners", (3, 4, 7, 8), 2, split=0, header=False)
    return None


def _is_name(cell: str) -> bool:
    return PurePosixPath(cell.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _are_numbers(cells: Sequence[str], empty: bool = False) -> bool:
    return all(_NUMBER.fullmatch(cell) for cell in cells) or (empty and not any(cells))
