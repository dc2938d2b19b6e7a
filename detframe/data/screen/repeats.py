"""Images that are there several times: within a split, and in two of them, where they spoil what is measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from detframe.data.findings import ERROR, NOTE, WARNING, Finding, Kind
from detframe.data.grouping import joined
from detframe.data.screen.pictures import Picture, same_bytes
from detframe.data.screen.split import Split
from detframe.data.source_groups import source_of

MOSTLY = 0.5  # of the images of a split
SAME_PICTURE = Kind(
    "image is equal, byte for byte, to another one of its split, and counts several times",
    "images are equal, byte for byte, to others of their split, and count several times",
    code="duplicate-image",
    remedy="leave them out, or write a clean list with --write",
)
OTHER_BOXES = Kind(
    "image is there twice with different objects; both are kept, and a model learns that either is right",
    "images are there several times with different objects; all are kept, and a model learns that any is right",
    code="duplicate-image-other-objects",
    remedy="decide which annotations are right",
)
ALIKE = Kind(
    "image looks the same as another one of its split, as frames of a video do; both are kept",
    "images look the same as others of their split, as frames of a video do; all are kept",
    code="similar-image",
    severity=NOTE,
)


def check_repeats(splits: Sequence[Split]) -> list[Finding]:
    """Images that are equal, or look equal, in one split or in two."""
    pictures = splits[0].pictures
    equal = same_bytes(pictures)
    alike = [pair for pair in look_alike(pictures) if not _same_source(*pair)]
    out: list[Finding] = []
    for split in splits:
        out += _within(split, equal, alike)
    for first, second in itertools.combinations(splits, 2):
        out += _across(first, second, equal, alike)
    return out


def _within(split: Split, equal: Sequence[Sequence[str]], alike: Sequence[tuple[str, str]]) -> list[Finding]:
    index = {path: i for i, path in reversed(list(enumerate(split.paths)))}
    same = [here for group in equal if len(here := [path for path in group if path in index]) > 1]
    surplus = [f"{split.names[path]} = {split.names[group[0]]}" for group in same for path in group[1:]]
    disputed = [
        " and ".join(split.names[path] for path in group[:2])
        for group in same
        if len({_objects(split, index[path]) for path in group}) > 1
    ]
    first = {path: group[0] for group in same for path in group}
    pairs = [(first.get(a, a), first.get(b, b)) for a, b in alike if a in index and b in index]
    similar = joined([(b, a) for a, b in pairs if a != b])
    examples = [f"{split.names[path]} and {split.names[group[0]]}" for group in similar for path in group[1:]]
    return [
        *split.found(SAME_PICTURE, surplus),
        *split.found(OTHER_BOXES, disputed),
        *split.found(ALIKE, examples),
    ]


def _objects(split: Split, image: int) -> frozenset[tuple[int, ...]]:
    """Class and box, in whole pixels, of the objects of an image."""
    rows = slice(*np.searchsorted(split.objects.image, [image, image + 1]))
    boxes, labels = split.objects.boxes[rows].round().astype(int).tolist(), split.objects.labels[rows].tolist()
    return frozenset((label, *box) for label, box in zip(labels, boxes, strict=True))


def _across(
    first: Split, second: Split, equal: Sequence[Sequence[str]], alike: Sequence[tuple[str, str]]
) -> list[Finding]:
    """Images of the second split that are in the first one too: as the same file, looking the same, or as a copy."""
    there, here = set(first.paths), set(second.paths)
    same = {path: path for path in second.paths if path in there}
    ends = ((group, [path for path in group if path in there][-2:]) for group in equal)  # two: nobody is his own
    same |= _partners(((a, b) for group, some in ends for a in some for b in group), there, here)
    similar = _partners(itertools.chain(alike, ((b, a) for a, b in alike)), there, here)
    sources: dict[str, str] = {source: path for path in first.paths if (source := source_of(path))}
    copies = {path: sources[source] for path in second.paths if (source := source_of(path)) in sources and source}
    out, known = [], set[str]()
    for partners, kind in ((same, _in_both), (similar, _look_as_in), (copies, _copies_of)):
        new = {path: other for path, other in partners.items() if path not in known}
        known |= set(new)
        out += _leak(kind(first.name), first, second, new)
    return out


def _partners(pairs: Iterable[tuple[str, str]], there: set[str], here: set[str]) -> dict[str, str]:
    """Of each path of `here`, one of `there` that it makes a pair with."""
    return {b: a for a, b in pairs if a in there and b in here and a != b}


def _leak(kind: Kind, first: Split, second: Split, partners: Mapping[str, str]) -> list[Finding]:
    names = second.names
    examples = [names[b] if a == b else f"{names[a]} and {names[b]}" for b, a in partners.items()]
    mostly = first.trains and len(partners) > max(1, MOSTLY * len(second.paths))
    return second.found(kind, examples, severity=ERROR if mostly else WARNING)


def _in_both(split: str) -> Kind:
    return Kind(
        f"image is in {split} too, byte for byte, so AP is better here than on new images",
        f"images are in {split} too, byte for byte, so AP is better here than on new images",
        code="image-in-both-splits",
        remedy=f"take them out of one of the two; --write takes them out of {split}",
    )


def _look_as_in(split: str) -> Kind:
    return Kind(
        f"image looks the same as one of {split}, so AP is better here than on new images",
        f"images look the same as some of {split}, so AP is better here than on new images",
        code="similar-image-in-both-splits",
        remedy="keep the frames of a video, and the copies of an image, in one split",
    )


def _copies_of(split: str) -> Kind:
    return Kind(
        f"image is a copy made of what one of {split} is made of, so AP is better here than on new images",
        f"images are copies made of what some of {split} are made of, so AP is better here than on new images",
        code="copies-in-both-splits",
        remedy="split before making copies, as Roboflow does, or keep the copies of an image in one split",
    )


def _same_source(a: str, b: str) -> bool:
    return source_of(a) != "" and source_of(a) == source_of(b) and Path(a).parent == Path(b).parent


# ------------------------------------------------------------------ which images look the same
CORRELATION = 0.995  # of two thumbnails that show the same
_MOST_BITS = 10  # by which hashes of such images differ: five times as many as are to be expected
_BANDS = 5  # parts of the hash
_NEIGHBOURS = 64  # among the images that agree in a part, how many are compared with each


def look_alike(pictures: Mapping[str, Picture]) -> list[tuple[str, str]]:
    """Pairs of files that show the same, equal ones included; images of one colour are like no other.

    Two images look the same where their thumbnails, 32x32 and grey, have a correlation of CORRELATION or more: on
    photos, microscope, tank and aerial images, JPEG of quality 50, half the size, blur and a little more light leave
    that much, and different images of one fixed camera have less. Which pairs to look at, a hash of 64 bits tells:
    each bit says on which side of a random plane a thumbnail lies, and differs in 3 % of the cases at that correlation,
    so that of five parts of the hash one is the same in all but a few pairs of a thousand.
    """
    shown = {path: p.thumbnail for path, p in pictures.items() if p.thumbnail is not None and not p.is_one_colour}
    if len(shown) < 2:
        return []
    paths, flat = list(shown), np.stack(list(shown.values())).astype(np.float32).reshape(len(shown), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    first, second = _candidates(_hashes(flat))
    found: list[tuple[str, str]] = []
    for at in range(0, len(first), 8192):  # so many rows of SIDE * SIDE numbers at a time
        a, b = first[at : at + 8192], second[at : at + 8192]
        alike = np.einsum("ij,ij->i", flat[a], flat[b]) >= CORRELATION
        found += [(paths[i], paths[j]) for i, j in zip(a[alike], b[alike], strict=True)]
    return found


def _hashes(directions: np.ndarray) -> np.ndarray:
    """uint64 (n,) of vectors (n, SIDE * SIDE): on which side of 64 random planes each lies."""
    planes = np.random.default_rng(0).standard_normal((directions.shape[1], 64), dtype=np.float32)
    return np.packbits(directions @ planes > 0, axis=1).view(np.uint64)[:, 0]


def _candidates(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices i < j of hashes that differ in at most _MOST_BITS bits."""
    width = -(-64 // _BANDS)
    pairs = []
    for band in range(_BANDS):
        key = (hashes >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.lexsort((hashes, key))
        pairs += _neighbours(hashes[order], key[order], order)
    stacked = np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)
    stacked = np.unique(np.sort(stacked, axis=1), axis=0)
    return stacked[:, 0], stacked[:, 1]


def _neighbours(hashes: np.ndarray, key: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Pairs (m, 2) of `order`, sorted by key, that share it and differ in few bits: each with those after it."""
    out, active = [], np.arange(len(hashes))
    for shift in range(1, _NEIGHBOURS + 1):
        active = active[active + shift < len(hashes)]
        active = active[key[active] == key[active + shift]]
        if not len(active):
            break
        close = active[_count_bits(hashes[active] ^ hashes[active + shift]) <= _MOST_BITS]
        out.append(np.stack([order[close], order[close + shift]], axis=1))
    return out


def _count_bits(words: np.ndarray) -> np.ndarray:
    """How many bits are set in each of uint64 (n,)."""
    return np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
