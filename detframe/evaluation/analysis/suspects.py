"""Likely label errors: where annotations contradict what is sure by everything else.

Three kinds, with one score from 0 to 1, the probability of the contradiction were the annotation right all the same,
taken from 1:
- missing label: a detection where no object is. The score is how likely a detection like it is right: of its score,
  class, size and shape, on an image with as many right and wrong ones, as far from others, as near to the border.
- wrong class: a detection that lies on an object of another class. The score is high where objects of the annotated
  class are hardly ever taken for the other, where size and shape speak for the other, and where no detection says the
  annotated class as well.
- unlike anything found: an object that no detection of any class touches. The score is how likely an object like it is
  found: of its class, size and shape, on an image where as many are found and missed, as near to the border and others.
An image with many contradictions is one finding rather than many: the odds of its second one are halved, those of its
third divided by three, and so on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detframe.evaluation.analysis import types as t
from detframe.evaluation.analysis.columns import FoundBoxes, Pairs, TrueBoxes, overlaps, rank_within
from detframe.evaluation.analysis.errors import Verdicts, best_partner
from detframe.evaluation.analysis.likelihood import (
    class_feature,
    log_odds,
    others_on_image,
    probability,
    shape_features,
    shape_ratio,
    typical_shapes,
)

# A detection with less than this IoU with every object may be one of an object that is not annotated
_ELSEWHERE = 0.3
# Detections below this share of the best threshold say nothing about objects
_FAINT = 0.1
# Of a wrong class against a right one, before anything is seen
_PRIOR_ODDS = 1.0
_LEAST_SCORE, _MOST = 0.25, 200
# From this share of the best threshold on, detections are counted, and can speak against annotations
_SURE = 0.5


@dataclass(frozen=True)
class Scene:
    """What the search looks at."""

    found: FoundBoxes
    true: TrueBoxes
    pairs: Pairs  # IoU of 0.1 or more
    verdicts: Verdicts
    objects: t.Objects
    sizes_hw: np.ndarray  # (I, 2)
    class_names: tuple[str, ...]
    iou: float
    threshold: float
    listed: np.ndarray  # int64 (D,): row in `Analysis.detections`, -1 for none


@dataclass(frozen=True)
class _Candidates:
    kind: str
    detection: np.ndarray  # int64 (S,), -1 for none
    object: np.ndarray  # int64 (S,), -1 for none
    score: np.ndarray  # (S,)


def find_suspects(scene: Scene) -> tuple[t.Suspect, ...]:
    """The contradictions, the likeliest label error first; at most 200, with a score of 0.25 or more."""
    missing = _missing_labels(scene)
    found = [missing, _wrong_classes(scene), _unlike_any(scene)]
    kind = np.repeat(np.arange(len(found)), [len(c.score) for c in found])
    detection, item, score = (
        np.concatenate([getattr(c, name) for c in found]) for name in ("detection", "object", "score")
    )
    image = np.concatenate([scene.found.image[missing.detection], *(scene.true.image[c.object] for c in found[1:])])
    by_score = np.argsort(-score, kind="stable")
    nth = np.empty(len(score))
    nth[by_score] = rank_within(image[by_score]) + 1
    score = score / (score + nth * (1 - score))
    best = [int(i) for i in np.argsort(-score, kind="stable")[:_MOST] if score[i] >= _LEAST_SCORE]
    return tuple(_suspect(scene, found[kind[i]].kind, int(detection[i]), int(item[i]), float(score[i])) for i in best)


def _missing_labels(scene: Scene) -> _Candidates:
    """Detections where no object is."""
    found, status = scene.found, scene.verdicts.status
    counted = scene.pairs.where(~scene.true.crowd[scene.pairs.second])
    _, most = best_partner(counted, len(found))
    beside_lost = np.zeros(len(found), dtype=bool)
    beside_lost[counted.first[scene.objects.status[counted.second] != t.FOUND]] = True
    right = status == t.RIGHT
    alone = ~right & (status != t.IGNORED) & (most < _ELSEWHERE) & ~beside_lost
    likely = _how_likely_right(scene, right, ~right & (status != t.IGNORED) & (most < _ELSEWHERE))
    rows = np.flatnonzero(alone & (likely >= _LEAST_SCORE) & (found.score >= _SURE * scene.threshold))
    rows = rows[_first_of_each_place(found, rows)]
    return _Candidates(t.MISSING_LABEL, rows, np.full(len(rows), -1), likely[rows])


def _how_likely_right(scene: Scene, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    found, num_classes, num_images = scene.found, len(scene.class_names), len(scene.sizes_hw)
    used = right | wrong
    sure = found.score * (found.score >= _SURE * scene.threshold)
    higher = overlaps(found, found, 0.05)
    _, crowding = best_partner(higher.where(higher.second < higher.first), len(found))
    columns = [
        log_odds(found.score),
        class_feature(found.label, right, used, num_classes),
        others_on_image(found.image, sure * right, num_images),
        others_on_image(found.image, sure * wrong, num_images),
        crowding,
        *shape_features(found, scene.sizes_hw, typical_shapes(scene.true, num_classes)),
    ]
    return probability(np.stack(columns, axis=1), right, used & (sure > 0))


def _first_of_each_place(found: FoundBoxes, rows: np.ndarray) -> np.ndarray:
    """bool: those of some detections with which none of higher score of them overlaps."""
    some = FoundBoxes(
        found.image[rows], found.row[rows], found.label[rows], found.box[rows], found.area[rows], found.score[rows]
    )
    pairs = overlaps(some, some, _ELSEWHERE)
    keep = np.ones(len(rows), dtype=bool)
    keep[pairs.first[pairs.second < pairs.first]] = False
    return keep


def _wrong_classes(scene: Scene) -> _Candidates:
    """Objects on which the surest detection is of another class, and is not that of another object.

    By Bayes' rule: the odds that the annotation is wrong are those known before, times how much more typical the
    object's size and shape are of the one class than of the other, over how often objects of the class are found as the
    other with such a score.
    """
    found, true, pairs = scene.found, scene.true, scene.pairs
    pairs = pairs.where((pairs.iou >= scene.iou) & ~true.crowd[pairs.second])
    own = found.label[pairs.first] == true.label[pairs.second]
    own_best = np.zeros(len(true))
    np.maximum.at(own_best, pairs.second[own], found.score[pairs.first[own]])
    # one that also touches an object of its class is an error of place to `errors`, but may be right about this object
    taken = np.isin(scene.verdicts.status[pairs.first], (t.RIGHT, t.DUPLICATE, t.IGNORED))
    rivals = pairs.where(~own & ~taken)
    rivals = rivals.where(found.score[rivals.first] >= _SURE * scene.threshold)
    rivals = rivals.where(_first_of_each(rivals.second, -found.score[rivals.first]))
    detection, item = rivals.first, rivals.second
    score, annotated, seen = found.score[detection], true.label[item], found.label[detection]
    objects = np.bincount(true.label[~true.crowd], minlength=len(scene.class_names) + 1)
    usual = _times_at_least(annotated * len(objects) + seen, score) / (objects[annotated] + 1)
    odds = _PRIOR_ODDS / usual * shape_ratio(true, item, seen, len(scene.class_names))
    return _Candidates(t.WRONG_CLASS, detection, item, odds / (1 + odds) * np.maximum(1 - own_best[item] / score, 0))


def _times_at_least(group: np.ndarray, score: np.ndarray) -> np.ndarray:
    """How many of the same group have this score or more: (S,), at least 1."""
    order = np.lexsort((-score, group))
    out = np.empty(len(group))
    out[order] = rank_within(group[order]) + 1
    return out


def _first_of_each(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Rows with the lowest key of each group."""
    order = np.lexsort((key, group))
    return order[np.diff(group[order], prepend=-1) != 0]


def _unlike_any(scene: Scene) -> _Candidates:
    """Objects that no detection touches."""
    true, objects, num_images = scene.true, scene.objects, len(scene.sizes_hw)
    touched = np.zeros(len(true), dtype=bool)
    touched[scene.pairs.second[scene.found.score[scene.pairs.first] >= _FAINT * scene.threshold]] = True
    used, was_found = ~true.crowd, objects.status == t.FOUND
    near = overlaps(true, true, 0.01)
    _, crowding = best_partner(near.where(near.first != near.second), len(true))
    columns = [
        class_feature(true.label, was_found, used, len(scene.class_names)),
        others_on_image(true.image, (was_found & used).astype(np.float64), num_images),
        others_on_image(true.image, (~was_found & used).astype(np.float64), num_images),
        crowding,
        *shape_features(true, scene.sizes_hw, typical_shapes(true, len(scene.class_names))),
    ]
    likely = probability(np.stack(columns, axis=1), was_found, used)
    rows = np.flatnonzero(used & ~touched & (likely >= _LEAST_SCORE))
    return _Candidates(t.UNLIKE_ANY, np.full(len(rows), -1), rows, likely[rows])


def _suspect(scene: Scene, kind: str, detection: int, item: int, score: float) -> t.Suspect:
    found, true, names = scene.found, scene.true, scene.class_names
    label = int(true.label[item]) if item >= 0 else 0
    found_as = int(found.label[detection]) if detection >= 0 else 0
    certainty = float(found.score[detection]) if detection >= 0 else math.nan
    box = true.box[item] if item >= 0 else found.box[detection]
    if kind == t.MISSING_LABEL:
        text = f"{names[found_as - 1]} found with score {certainty:.2f} where nothing is annotated"
    elif kind == t.WRONG_CLASS:
        text = f"annotated as {names[label - 1]}, found as {names[found_as - 1]} with score {certainty:.2f}"
    else:
        text = f"annotated as {names[label - 1]}, but nothing is found there, though objects like it are"
    return t.Suspect(
        kind=kind,
        score=score,
        image=int(true.image[item] if item >= 0 else found.image[detection]),
        ann_id=int(true.ann_id[item]) if item >= 0 else None,
        object=item,
        label=label,
        found_as=found_as,
        detection_score=certainty,
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        detection=int(scene.listed[detection]) if detection >= 0 else -1,
        text=text,
    )
