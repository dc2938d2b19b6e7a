"""Planted label errors are among the first suspects, whichever object they are planted on."""

from __future__ import annotations

import numpy as np
import pytest

from detframe.arrays.results import ImageResult
from detframe.evaluation.analysis import analyse
from detframe.evaluation.ground_truth import GroundTruth
from tests.evaluation.fakes import FakeRecords, record


def scene(seed, num_images=40, per_image=12, num_classes=3):
    """A data set and the results of a model that finds most of it, confuses some, and sees what is not there."""
    rng = np.random.default_rng(seed)
    rows, results = [], {}
    for image in range(num_images):
        places = rng.permutation(48)[: per_image + 3]
        corner = np.stack([places % 8 * 60 + 5, places // 8 * 60 + 5], 1).astype(np.float64)
        labels = rng.integers(1, num_classes + 1, len(places))
        side = 12 * labels[:, None] + rng.uniform(0, 8, (len(places), 2))
        boxes = np.concatenate([corner, corner + side], 1)
        rows.append(record(image, boxes[:per_image], labels[:per_image], size_hw=(400, 500)))
        found = boxes + rng.normal(0, 0.8, boxes.shape)
        scores = np.where(np.arange(len(places)) < per_image, rng.beta(9, 1, len(places)), rng.beta(2, 6, len(places)))
        seen = rng.random(len(places)) < 0.93
        seen_as = np.where(rng.random(len(places)) < 0.01, rng.integers(1, num_classes + 1, len(places)), labels)
        results[image] = ImageResult(found[seen].astype(np.float32), seen_as[seen], scores[seen].astype(np.float32))
    return rows, results


def suspects(rows, results, names=("a", "b", "c")):
    return analyse(GroundTruth(FakeRecords(rows, names)), results).suspects


def without(row, index):
    keep = np.arange(len(row["labels"])) != index
    return {**row, **{key: row[key][keep] for key in ("boxes", "labels", "iscrowd", "area", "ann_ids")}}


def confident(rows, results, rng):
    """An object at random that is found with a score above 0.9."""
    while True:
        image = int(rng.integers(len(rows)))
        index = int(rng.integers(len(rows[image]["labels"])))
        near = np.abs(results[image].boxes - rows[image]["boxes"][index].numpy()).max(1) < 6
        if near.any() and results[image].scores[near.argmax()] > 0.9:
            if results[image].labels[near.argmax()] == rows[image]["labels"][index]:
                return image, index


@pytest.mark.parametrize("seed", range(8))
def test_a_removed_box_and_a_changed_class_are_among_the_first_ten(seed):
    rng = np.random.default_rng(100 + seed)
    rows, results = scene(seed)
    image, index = confident(rows, results, rng)
    box = rows[image]["boxes"][index].numpy()
    rows[image] = without(rows[image], index)
    other, changed = confident(rows, results, rng)
    labels = rows[other]["labels"].clone()
    labels[changed] = labels[changed] % 3 + 1
    rows[other] = {**rows[other], "labels": labels}
    first = suspects(rows, results)[:10]
    assert any(
        s.kind == "missing label" and s.image == image and np.abs(np.array(s.box) - box).max() < 6 for s in first
    )
    wrong = [s for s in first if s.kind == "wrong class" and s.image == other]
    assert [s.ann_id for s in wrong] == [int(rows[other]["ann_ids"][changed])]
    assert wrong[0].label == int(labels[changed]) != wrong[0].found_as


@pytest.mark.parametrize("seed", range(4))
def test_a_box_where_nothing_is(seed):
    rows, results = scene(seed)
    boxes = np.concatenate([rows[3]["boxes"].numpy(), [[450, 365, 474, 389]]])
    rows[3] = record(3, boxes, np.append(rows[3]["labels"].numpy(), 2), size_hw=(400, 500))
    found = [s for s in suspects(rows, results) if s.kind == "unlike anything found"]
    assert (3, len(boxes) - 1) in [(s.image, s.ann_id) for s in found]


def test_where_annotations_and_detections_agree_nothing_is_suspected():
    rows, _ = scene(0)
    truth = GroundTruth(FakeRecords(rows, ["a", "b", "c"]))
    perfect = {image_id: image.as_result() for image_id, image in truth.images.items()}
    assert analyse(truth, perfect).suspects == ()


def test_a_model_that_takes_a_whole_class_for_another_makes_no_suspects_of_it():
    rows, _ = scene(1)
    truth = GroundTruth(FakeRecords(rows, ["a", "b", "c"]))
    results = {image_id: image.as_result() for image_id, image in truth.images.items()}
    for result in results.values():
        result.labels = np.where(result.labels == 2, 1, result.labels)
    assert not [s for s in analyse(truth, results).suspects[:10] if s.score > 0.7]


def test_only_one_image_and_one_object():
    rows = [record(1, [[10, 10, 60, 60]], [1])]
    nothing = ImageResult(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert suspects(rows, {1: nothing}, ["a"]) == ()


def test_a_changed_class_beside_a_neighbour_that_overlaps():
    """Its detection overlaps another object of its class, an error of place by TIDE's order; a suspect all the same."""
    rows, _ = scene(2)
    boxes = np.concatenate([rows[5]["boxes"].numpy(), [[300, 340, 340, 380], [315, 340, 355, 380]]])
    labels = np.append(rows[5]["labels"].numpy(), [3, 3])
    rows[5] = record(5, boxes, labels, size_hw=(400, 500))
    truth = GroundTruth(FakeRecords(rows, ["a", "b", "c"]))
    results = {image_id: image.as_result() for image_id, image in truth.images.items()}
    labels[-1] = 1
    rows[5] = record(5, boxes, labels, size_hw=(400, 500))
    first = suspects(rows, results)[0]
    assert (first.kind, first.image, first.ann_id, first.label, first.found_as) == (
        "wrong class",
        5,
        len(boxes) - 1,
        1,
        3,
    )
