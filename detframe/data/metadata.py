"""Metadata: what a data set calls its classes and keypoints."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from detframe.errors import InvalidValueError, shown

_FEW = 30  # rows of a list of names that a message shows


@dataclass(frozen=True)
class Metadata:
    """Names of a data set. Label i + 1 is class_names[i]; label 0 is background and has no name."""

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the file's own number of each class; VOC: 1..K
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip_pairs: tuple[tuple[int, int], ...] = ()  # keypoints that a mirrored image exchanges
    keypoint_sigmas: tuple[float, ...] = ()  # of keypoint AP; empty: COCO's for 17 keypoints, else 0.05
    # LVIS's "r", "c", "f": classes in few training images, in some, in many; "" where it is not known. Empty: of none
    frequencies: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return len(self.class_names)


def pairs_by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of indices whose names differ only by left and right, as "left_eye" and "right_eye"."""
    index = {name.lower(): i for i, name in enumerate(names)}
    pairs = []
    for name, i in index.items():
        other = re.sub("left", "right", name)
        if other != name and other in index:
            pairs.append((i, index[other]))
    return tuple(pairs)


def with_keypoint_facts(
    metadata: Metadata, sigmas: Sequence[float] | None, pairs: Sequence[Sequence[str]] | None
) -> Metadata:
    """The metadata with what a catalog says of the keypoints.

    Raises:
        ValueError: as many sigmas as there are not keypoints, one that is not above 0, or a pair of unknown names.
    """
    names = list(metadata.keypoint_names)
    if sigmas is not None:
        if not _is_list(sigmas, len(names)) or not all(map(_is_positive, sigmas)):
            raise InvalidValueError(
                f"data set {metadata.name!r}: keypoint_sigmas must be {len(names)} numbers above 0, one for each of "
                f"{', '.join(names)}, not {shown(sigmas)}"
            )
        metadata = replace(metadata, keypoint_sigmas=tuple(float(sigma) for sigma in sigmas))
    if pairs is not None:
        if not _is_list(pairs):
            raise InvalidValueError(
                f"data set {metadata.name!r}: keypoint_flip_pairs must be a list of pairs of names, not {shown(pairs)}"
            )
        wrong = [pair for pair in pairs if not _is_list(pair, 2) or any(name not in names for name in pair)]
        if wrong:
            raise InvalidValueError(
                f"data set {metadata.name!r}: keypoint_flip_pairs has {shown(wrong[0])}; a pair is two of "
                f"{', '.join(names)}"
            )
        metadata = replace(metadata, keypoint_flip_pairs=tuple((names.index(a), names.index(b)) for a, b in pairs))
    return metadata


def _is_list(value: Any, length: int | None = None) -> bool:
    return isinstance(value, list | tuple) and length in (None, len(value))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def joined_sigmas(first: Metadata, second: Metadata) -> tuple[float, ...]:
    """The keypoint sigmas of two data sets together: those of the one that names some.

    Raises:
        ValueError: both name some, and they differ.
    """
    a, b = first.keypoint_sigmas, second.keypoint_sigmas
    if a and b and a != b:
        raise InvalidValueError(
            f"{first.name} and {second.name} do not have the same keypoint_sigmas ({list(a)} and {list(b)}), so their "
            f"keypoint AP cannot be one number"
        )
    return a or b


def resolve_num_keypoints(cfg: Any, metadata: Metadata) -> int:
    """P of a model with keypoints: NUM_KEYPOINTS, or the data set's number where that key is 0.

    Raises:
        ValueError: the two are given and differ, or KEYPOINT_ON meets data without keypoints.
    """
    wanted, found = int(cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS), len(metadata.keypoint_names)
    if not cfg.MODEL.KEYPOINT_ON:
        return wanted
    if found == 0 or wanted not in (0, found):
        raise InvalidValueError(
            f"MODEL.KEYPOINT_ON with MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {wanted}, but the data set {metadata.name} "
            f"has {found} keypoints" + (f" ({', '.join(metadata.keypoint_names)})" if found else "")
        )
    return found


def resolve_num_classes(cfg: Any, metadata: Metadata) -> int:
    """K of the model: MODEL.NUM_CLASSES, or the data set's number of classes where that key is 0.

    Raises:
        ValueError: the two are given and differ, or the data set has no classes.
    """
    wanted, found = cfg.MODEL.NUM_CLASSES, metadata.num_classes
    if not found:
        raise InvalidValueError(
            f"the data set {metadata.name} has no classes: its annotations name no category, and hold no object"
        )
    if wanted not in (0, found):
        names = ", ".join(metadata.class_names[:20]) + (", ..." if found > 20 else "")
        raise InvalidValueError(
            f"MODEL.NUM_CLASSES is {wanted}, but the data set {metadata.name} has {found} classes ({names}). "
            f"The key counts foreground classes only; 0 takes their number from the data"
        )
    return found


def folded(name: str) -> str:
    """A name without what people write differently: letter case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def check_same_names(kind: str, first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> None:
    """Two named lists of class or keypoint names must be equal, as labels are positions in them.

    Raises:
        ValueError: they differ; the message sets them side by side, names the closest match of each stray one, and says
            which `classes` make them equal, where they differ in spelling or order alone.
    """
    (name_a, a), (name_b, b) = first, second
    if list(a) == list(b):
        return
    width = max([len(name_a), *(len(n) for n in a)]) + 2
    lines = [f"  {'':>4} {name_a:<{width}}{name_b}"]
    total = max(len(a), len(b))
    rows = [i for i in range(total) if total <= _FEW or i >= min(len(a), len(b)) or a[i] != b[i]]
    for i in rows[:_FEW]:
        left, right = (a[i] if i < len(a) else "-"), (b[i] if i < len(b) else "-")
        mark = "" if left == right else "   <-- differs"
        lines.append(f"  {i + 1:>4} {left:<{width}}{right}{mark}")
    left_out = len(rows) - _FEW
    lines += [f"  ... and {left_out} more that differ"] if left_out > 0 else []
    hints = (_stray(name_a, a, b) + _stray(name_b, b, a))[: 2 * _FEW]
    if kind == "class":
        hints += _remedy(first, second)
    raise InvalidValueError(f"{name_a} and {name_b} do not have the same {kind} names:\n" + "\n".join(lines + hints))


def _remedy(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> list[str]:
    """What makes the second list of class names the first one, where spelling or order is all that differs."""
    (name_a, a), (name_b, b) = first, second
    by_folded = {folded(name): name for name in b}
    if len(a) != len(b) or len({*map(folded, a)}) < len(a) or {*map(folded, a)} != {*by_folded}:
        return []
    spelt_alike = set(a) == set(b)
    what = "in their order alone" if spelt_alike else "in letter case, spaces, hyphens and underscores alone"
    classes = list(a) if spelt_alike else {by_folded[folded(name)]: name for name in a}
    text = yaml.safe_dump({"classes": classes}, default_flow_style=None, sort_keys=False, allow_unicode=True, width=110)
    lines = [f"    {line}" for line in text.rstrip().splitlines()]
    return [f"they differ {what}. In the catalog, this gives {name_b} the names of {name_a}:", *lines]


def _stray(owner: str, names: Sequence[str], others: Sequence[str]) -> list[str]:
    out = []
    for name in names:
        if name in others:
            continue
        close = difflib.get_close_matches(name.lower(), [o.lower() for o in others], n=1, cutoff=0.6)
        hint = next((f"; is it {o!r}?" for o in others if close and o.lower() == close[0]), "")
        out.append(f"  only in {owner}: {name!r}{hint}")
    return out
