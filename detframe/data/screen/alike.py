"""Which pictures look the same, by a hash of what they show.

Two pictures look the same where their thumbnails, 32x32 and grey, have a correlation of CORRELATION or more: on photos,
microscope, tank and aerial pictures, JPEG of quality 50, half the size, blur and a little more light leave that much,
and different pictures of one fixed camera have less. Which pairs to look at, a hash of 64 bits tells: each bit says on
which side of a random plane a thumbnail lies, and differs in 3 % of the cases at that correlation, so that of five
parts of the hash one is the same in all but a few pairs of a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detframe.data.screen.pictures import Picture

CORRELATION = 0.995  # of two thumbnails that show the same
_MOST_BITS = 10  # by which hashes of such pictures differ: five times as many as are to be expected
_BANDS = 5  # parts of the hash
_NEIGHBOURS = 64  # among the pictures that agree in a part, how many are compared with each


def look_alike(pictures: Mapping[str, Picture]) -> list[tuple[str, str]]:
    """Pairs of files that show the same, equal ones included; pictures of one colour are like no other."""
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
