"""What to try next, by rules on the numbers; each rule stands with its function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from detframe.evaluation.analysis import types as t

# Points of AP50 from which an error type is worth a word
_COSTLY = 2.0
_FEW_OBJECTS = 20
# A class is found well by a score of its own from this F1 on; the score for all classes finds less than half as many
_FOUND_WELL = 0.3
# Rise of the validation loss over its lowest, as a share of it, and how far before the end that must lie
_RISE, _TAIL = 0.05, 0.1


def advise(
    objects: t.Objects,
    detections: int,
    errors: t.Errors,
    confusion: t.Confusion,
    suspects: Sequence[t.Suspect],
    curves: Sequence[t.Curve],
) -> tuple[t.Advice, ...]:
    """What follows from the numbers, what may bring most AP first.

    Args:
        detections: how many there are, of any score.
        curves: of all classes together, then of each class.
    """
    class_names = [curve.name for curve in curves[1:]]
    counted = int((objects.status != t.CROWD).sum())
    if not counted:
        return (_note("no_objects", "The data set has no objects, so nothing can be measured: check its annotations."),)
    if not detections:
        text = "There is not one detection: train longer, check that the weights were loaded, or lower the threshold."
        return (_note("no_detections", text, objects=counted),)
    found = [*_costly(errors), *_small(objects, errors)]
    found += [*_found_below(objects, curves, counted), *_never_found(objects, curves)]
    found += [*_confused(confusion, class_names, errors)]
    found += [*_few(objects, class_names), *_labels(suspects)]
    return tuple(advice for _, advice in sorted(found, key=lambda pair: -pair[0]))


def curve_advice(
    training: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]]
) -> tuple[t.Advice, ...]:
    """What the losses (iteration, loss) say: "stop_earlier" or "train_longer".

    Stop earlier if the last validation loss is 5% or more above the lowest, and that lies before the last tenth of the
    run. Train longer if the last validation loss is the lowest and 1% or more below the one before. Losses that are not
    finite are left out, and fewer than three say nothing.
    """
    points = sorted((int(i), float(v)) for i, v in validation if math.isfinite(v))
    if len(points) < 3:
        return ()
    best, lowest = min(points, key=lambda point: point[1])
    end, last = points[-1]
    numbers = {"best_iteration": best, "lowest": lowest, "last_iteration": end, "last": last}
    if last >= lowest + _RISE * abs(lowest) and last > lowest and best <= end - _TAIL * (end - points[0][0]):
        falls = _falls(training, best)
        why = "while the training loss falls on: the model overfits the training images" if falls else ""
        text = (
            f"The validation loss is lowest at iteration {best} ({lowest:.3g}) and rises to {last:.3g} at {end}"
            f"{', ' + why if why else ''}. Stop earlier, use the best checkpoint, or add data and augmentation."
        )
        return (t.Advice("stop_earlier", text, numbers),)
    if best == end and last <= points[-2][1] - 0.01 * abs(points[-2][1]):
        text = f"The validation loss still falls at the end ({points[-2][1]:.3g} to {last:.3g}): train longer."
        return (t.Advice("train_longer", text, numbers),)
    return ()


def _falls(training: Sequence[tuple[int, float]], since: int) -> bool:
    """Whether the training loss is lower in the second half of what comes after an iteration than in the first."""
    after = [float(v) for i, v in training if i > since and math.isfinite(v)]
    half = len(after) // 2
    return half > 0 and float(np.mean(after[half:])) < float(np.mean(after[:half]))


def _note(code: str, text: str, **numbers: object) -> t.Advice:
    return t.Advice(code, text, dict(numbers))


def _costly(errors: t.Errors) -> Iterable[tuple[float, t.Advice]]:
    """An error type that costs 2 points of AP50 or more."""
    remedies = {
        "localisation": "Boxes are found but lie badly: train longer, use anchors that fit the objects better, or a "
        "larger input.",
        "duplicate": "Objects are found more than once: lower the IoU of NMS, or use NMS across classes (TEST.NMS).",
        "background": "Things are found where nothing is annotated: use the best threshold, add images without objects "
        "to the training, and look at the likely missing labels.",
        "class": "Objects are found with a wrong class: look at the confusion matrix, and at the labels of the classes "
        "that are confused.",
        "both": "Detections lie badly on objects of another class: train longer.",
        "missed": "Objects are not found at all: train longer, add training images like those where they are missed, "
        "or use a larger input.",
    }
    for name, cost, count in zip(t.ERROR_TYPES, errors.cost.tolist(), errors.counts.tolist(), strict=True):
        if cost >= _COSTLY:
            text = f"{remedies[name]} It costs {cost:.1f} points of AP50."
            yield cost, t.Advice(f"costly_{name}", text, {"cost": cost, "count": count})


def _small(objects: t.Objects, errors: t.Errors) -> Iterable[tuple[float, t.Advice]]:
    """Of ten or more small objects fewer than 70% are found; 15% fewer than of larger ones, where there are some."""
    counted = objects.status != t.CROWD
    small, larger = counted & (objects.size == 1), counted & (objects.size > 1)
    if small.sum() < 10:
        return
    hit = objects.status == t.FOUND
    recall = float(hit[small].mean())
    others = float(hit[larger].mean()) if larger.any() else math.nan
    if recall < 0.7 and not recall > others - 0.15:
        beside = f", of larger ones {others:.0%}" if larger.any() else ""
        text = (
            f"Of the {int(small.sum())} small objects (below 32 x 32 pixels) {recall:.0%} are found{beside}: use a "
            "larger input (INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST), smaller anchors, or cut the images into tiles."
        )
        numbers = {"recall_small": recall, "recall_larger": others, "small": int(small.sum())}
        yield (
            float(errors.cost[-1]) + 100 * (1 - recall) * float(small.sum() / counted.sum()),
            t.Advice("small_objects_missed", text, numbers),
        )


def _found_below(objects: t.Objects, curves: Sequence[t.Curve], counted: int) -> Iterable[tuple[float, t.Advice]]:
    """Classes of which the best threshold overall finds less than half of what one of their own finds, at a fair F1."""
    lost = _lost_by_threshold(objects, curves)
    if not lost:
        return
    listed = [
        f"{c.name} at {c.best.score:.2f} (recall {c.best.recall:.0%} instead of {recall:.0%}, precision "
        f"{c.best.precision:.0%})"
        for c, recall in lost[:10]
    ]
    text = (
        f"The best threshold overall, {curves[0].best.score:.2f}, is too high for classes that are found with lower "
        f"scores: {', '.join(listed)}{', ...' if len(lost) > 10 else ''}. Take a threshold for each class (detframe "
        "predict --classes NAME --score S), or train longer."
    )
    of_each = {c.name: {"score": c.best.score, "recall": c.best.recall, "recall_overall": r} for c, r in lost}
    gain = sum((c.best.recall - recall) * c.num_objects for c, recall in lost) / counted
    yield 100 * gain, t.Advice("class_thresholds", text, {"threshold": curves[0].best.score, "classes": of_each})


def _lost_by_threshold(objects: t.Objects, curves: Sequence[t.Curve]) -> list[tuple[t.Curve, float]]:
    """The curves of such classes, and their recall at the best threshold overall; most objects lost first."""
    total, hits = _per_class(objects, len(curves) - 1)
    recalls = [(curve, hits[curve.label - 1] / total[curve.label - 1]) for curve in curves[1:] if curve.num_objects]
    lost = [(c, float(recall)) for c, recall in recalls if c.best.f1 >= _FOUND_WELL and recall < c.best.recall / 2]
    return sorted(lost, key=lambda pair: -(pair[0].best.recall - pair[1]) * pair[0].num_objects)


def _never_found(objects: t.Objects, curves: Sequence[t.Curve]) -> Iterable[tuple[float, t.Advice]]:
    """A class of which no object is found at the best threshold, nor well at one of its own."""
    total, hits = _per_class(objects, len(curves) - 1)
    elsewhere = {curve.label for curve, _ in _lost_by_threshold(objects, curves)}
    for index in np.flatnonzero((total > 0) & (hits == 0)).tolist():
        if index + 1 in elsewhere:
            continue
        name, number = curves[index + 1].name, int(total[index])
        text = (
            f"Not one of the {number} objects of {name} is found at the best threshold: does the training set have "
            "enough of them, under the same name? Show rare classes more often (DATALOADER.SAMPLER class_balanced, or "
            "repeat_factor with REPEAT_THRESHOLD, which is milder), or let their objects count more "
            "(MODEL.CLASS_WEIGHTS auto)."
        )
        yield 100 / int((total > 0).sum()), t.Advice("class_never_found", text, {"class": name, "objects": number})


def _confused(confusion: t.Confusion, class_names: Sequence[str], errors: t.Errors) -> Iterable[tuple[float, t.Advice]]:
    """Five or more objects of a class, and a tenth of all, are found as one other class."""
    counts = confusion.counts[:-1]
    total = counts.sum(1)
    for row, column in np.argwhere(counts[:, :-1] >= np.maximum(5, 0.1 * total[:, None])).tolist():
        if row != column:
            number, share = int(counts[row, column]), float(counts[row, column] / total[row])
            a, b = class_names[row], class_names[column]
            text = (
                f"{share:.0%} of the objects of {a} ({number}) are found as {b}: are the two labelled by one rule? "
                "Look at the labels of both, add examples of the rarer, or make one class of them."
            )
            numbers = {"class": a, "found_as": b, "count": number, "share": share}
            yield float(errors.cost[0]) * share + share, t.Advice("classes_confused", text, numbers)


def _few(objects: t.Objects, class_names: Sequence[str]) -> Iterable[tuple[float, t.Advice]]:
    """A class with objects, but fewer than 20."""
    total, _ = _per_class(objects, len(class_names))
    few = [(class_names[i], int(total[i])) for i in np.flatnonzero((total > 0) & (total < _FEW_OBJECTS)).tolist()]
    if few:
        listed = ", ".join(f"{name} ({number})" for name, number in few[:10]) + (" ..." if len(few) > 10 else "")
        text = (
            f"Fewer than {_FEW_OBJECTS} objects, so their AP says little: {listed}. Add more of them to this data set."
        )
        yield 0.5, t.Advice("few_objects", text, {"classes": dict(few)})


def _labels(suspects: Sequence[t.Suspect]) -> Iterable[tuple[float, t.Advice]]:
    """There are suspects with a score of 0.8 or more."""
    sure = [suspect for suspect in suspects if suspect.score >= 0.8]
    if sure:
        counts = {kind: sum(suspect.kind == kind for suspect in sure) for kind in t.SUSPECT_KINDS}
        listed = ", ".join(f"{count} of kind “{kind}”" for kind, count in counts.items() if count)
        text = (
            f"Look at the likely label errors: {listed}. Errors in this data set make every AP look worse than it is."
        )
        yield 1.0, t.Advice("label_errors", text, dict(counts))


def _per_class(objects: t.Objects, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects, and those found, of each class: int64 (K,) both."""
    counted, hit = objects.status != t.CROWD, objects.status == t.FOUND
    total = np.bincount(objects.label[counted], minlength=num_classes + 1)[1:]
    return total, np.bincount(objects.label[hit], minlength=num_classes + 1)[1:]
