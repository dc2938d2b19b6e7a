"""From what was found in the tiles of an image to what is in the image: each object once, and whole.

Legend: M detections of all tiles, G merged ones, T tiles, (H, W) size of the image. Boxes are xyxy in pixels of the
image.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from detframe.arrays.seams import Found, MaskOf, find_pairs, overlaps, ratio, whole_overlaps
from detframe.errors import InvalidValueError

Method = Literal["ios", "nms"]


class Merged(NamedTuple):
    """Merged detections, by falling score."""

    boxes: np.ndarray  # float64 (G, 4)
    scores: np.ndarray  # (G,), of the type of those that came in
    lead: np.ndarray  # int64 (G,): the detection that all else is taken from, as label and keypoints
    parts: list[np.ndarray]  # G of int64: the detections whose masks together are the mask


def merge_tiles(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    tile: np.ndarray,
    tiles: np.ndarray,
    size_hw: tuple[int, int],
    method: Method = "ios",
    threshold: float = 0.5,
    mask_of: MaskOf | None = None,
) -> Merged:
    """Merge the detections of the tiles of an image.

    "ios": what two tiles have found of one object becomes one detection; two detections of one tile never do, which
    the model's own NMS has told apart. A detection that no border has cut stays as it is and takes in what others have
    seen of it (of several such, that share `threshold` of the smaller one, which has as large a part of the area of the
    larger one, the best remains). What was cut in every tile is put together: the box around all parts, the union of
    their masks, and the best score. `threshold` is also the part of a cut detection that has to lie in a whole one of
    no lower score.

    "nms": of detections of one class that overlap by `threshold` over their union the best remains, as in one image;
    what borders have cut stays cut.

    Args:
        boxes: (M, 4). scores, labels: (M,). tile: int64 (M,), which tile has found it.
        tiles: (T, 4); one of them may be the whole image.
        mask_of: first row, first column and pixels bool (h, w) of the mask of a detection; masks tell better than boxes
            which parts belong together.

    Raises:
        ValueError: another method.
    """
    if method not in get_args(Method):
        raise InvalidValueError(f"there is no merging {method!r}; it must be one of {', '.join(get_args(Method))}")
    found = Found(
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray(scores),
        np.asarray(labels),
        np.asarray(tile, dtype=np.int64),
        np.asarray(tiles, dtype=np.float64).reshape(-1, 4),
        size_hw,
        mask_of,
    )
    if method == "nms":
        keep = _nms(found, threshold)
        return Merged(found.boxes[keep], found.scores[keep], keep, [np.array([row]) for row in keep.tolist()])
    groups = _grouped(found, threshold)
    described = [_described(found, groups, number) for number, members in enumerate(groups.members) if members]
    return _joined(found, _without_covered(found, described, threshold))


def _falling(scores: np.ndarray) -> np.ndarray:
    """int64: by falling score, and of equal ones in their order."""
    return np.argsort(-scores, kind="stable")


def _nms(found: Found, threshold: float) -> np.ndarray:
    """int64 (G,): the detections that remain, by falling score."""
    order, kept = _falling(found.scores), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        shared, own, others = overlaps(found.boxes[[best]], found.boxes[rest])
        same = (ratio(shared, own + others - shared)[0] > threshold) & (found.labels[rest] == found.labels[best])
        order = rest[~same]
    return np.array(kept, dtype=np.int64)


# ---------------------------------------------------------------------- groups of what belongs together
class _Groups:
    """Which detections show one object: at most one of every tile."""

    def __init__(self, found: Found) -> None:
        self._of = list(range(len(found.scores)))
        self.members = [[row] for row in self._of]
        self.tiles = [{int(tile)} for tile in found.tile]
        self.best_whole = [row if found.whole[row] else -1 for row in self._of]

    def group(self, row: int) -> int:
        """The number of the group of a detection."""
        return self._of[row]

    def has_common_tile(self, one: int, other: int) -> bool:
        """Whether a tile has found something of both groups."""
        return not self.tiles[one].isdisjoint(self.tiles[other])

    def join(self, one: int, other: int, best_whole: int) -> None:
        """Make one group of two."""
        if len(self.members[one]) < len(self.members[other]):
            one, other = other, one
        for row in self.members[other]:
            self._of[row] = one
        self.members[one] += self.members[other]
        self.tiles[one] |= self.tiles[other]
        self.best_whole[one] = best_whole
        self.members[other], self.tiles[other] = [], set()


def _grouped(found: Found, threshold: float) -> _Groups:
    groups = _Groups(found)
    for _, i, j in find_pairs(found, threshold):
        one, other = groups.group(i), groups.group(j)
        if one == other or groups.has_common_tile(one, other):
            continue
        wholes = groups.best_whole[one], groups.best_whole[other]
        if min(wholes) < 0:
            groups.join(one, other, max(wholes))
        elif found.whole[i] and found.whole[j] and _sameness(found, *wholes) >= threshold:
            groups.join(one, other, _better(found, *wholes))
    return groups


def _better(found: Found, one: int, other: int) -> int:
    """The detection with the higher score; of equal ones the first."""
    return min((one, other), key=lambda row: (-float(found.scores[row]), row))


def _sameness(found: Found, one: int, other: int) -> float:
    _, same = whole_overlaps(found.boxes[[one]], found.boxes[[other]])
    return float(same[0, 0])


class _Group(NamedTuple):
    box: np.ndarray
    score: float
    lead: int
    parts: list[int]
    tiles: set[int]
    remains: bool  # cut, and another tile sees more of it


def _described(found: Found, groups: _Groups, number: int) -> _Group:
    """What a group is in the image."""
    members, tiles, best = groups.members[number], groups.tiles[number], groups.best_whole[number]
    if best >= 0:
        return _Group(found.boxes[best], float(found.scores[best]), best, [best], tiles, False)
    lead = min(members, key=lambda row: (-float(found.scores[row]), row))
    boxes = found.boxes[members]
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    parts = [lead, *sorted(set(members) - {lead})]
    return _Group(box, float(found.scores[lead]), lead, parts, tiles, bool(found.seen_by_another[members].all()))


def _without_covered(found: Found, groups: list[_Group], threshold: float) -> list[_Group]:
    """The groups but for remains of objects that other tiles have found: those that lie in a better group."""
    solid = [group for group in groups if not group.remains]
    boxes = np.array([group.box for group in solid]).reshape(-1, 4)
    scores = np.array([group.score for group in solid])
    labels = np.array([found.labels[group.lead] for group in solid])

    def is_covered(group: _Group) -> bool:
        shared, own, _ = overlaps(group.box[None], boxes)
        covers = (ratio(shared, own)[0] >= threshold) & (scores >= group.score) & (labels == found.labels[group.lead])
        return any(solid[number].tiles.isdisjoint(group.tiles) for number in np.flatnonzero(covers).tolist())

    return [group for group in groups if not (group.remains and is_covered(group))]


def _joined(found: Found, groups: list[_Group]) -> Merged:
    chosen = sorted(groups, key=lambda group: (-group.score, group.lead))
    lead = np.array([group.lead for group in chosen], dtype=np.int64)
    return Merged(
        np.array([group.box for group in chosen], dtype=np.float64).reshape(-1, 4),
        found.scores[lead],
        lead,
        [np.array(group.parts, dtype=np.int64) for group in chosen],
    )
