"""The whole analysis: what it is made of agrees with each other, and it is ready for JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detframe.arrays.results import pack
from detframe.errors import InvalidValueError
from detframe.evaluation.analysis import analyse
from detframe.evaluation.ground_truth import GroundTruth
from tests.evaluation.fakes import FakeRecords, noisy_predictions, prediction, random_records, record


def analysed(records, predictions, **kwargs):
    results = {row["image_id"]: pack(p) for row, p in zip(records, predictions, strict=True)}
    return analyse(GroundTruth(records), results, **kwargs)


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_agree_with_each_other(seed):
    records = random_records(num_images=20, seed=seed)
    a = analysed(records, noisy_predictions(records, seed=seed), min_score=0)
    objects = int(sum((~row["iscrowd"]).sum() for row in records))
    assert a.confusion.counts[:-1].sum() == objects == a.curves[0].num_objects == a.ap.objects[:, 0].sum()
    assert a.images.right.sum() + a.images.missed.sum() == objects
    assert a.curves[0].best.f1 == pytest.approx(
        2 * a.images.right.sum() / (2 * a.images.right + a.images.wrong + a.images.missed).sum()
    )
    assert np.bincount(a.detections.status, minlength=7)[1:6].sum() == a.errors.counts[:5].sum()
    assert a.errors.ap == pytest.approx(a.ap.mean[0, 0], abs=1e-9)


def test_it_is_ready_for_json():
    records = random_records(num_images=6)
    out = json.loads(json.dumps(analysed(records, noisy_predictions(records)).as_dict(), allow_nan=False))
    assert out["class_names"] == ["class1", "class2", "class3"] and out["image_ids"][0] == 100
    assert set(out["objects"]["status"]) <= {"found", "class", "localisation", "missed", "ignored"}
    assert len(out["detections"]["image_id"]) == len(out["detections"]["score"])


NOTHING = prediction([], [], [])


@pytest.mark.parametrize(
    ("rows", "predictions"),
    [
        ([], []),
        ([record(1, [], [])], [NOTHING]),
        ([record(1, [[10, 10, 50, 50]], [1])], [NOTHING]),
        ([record(1, [], [])], [prediction([[10, 10, 50, 50]], [1], [0.9])]),
        ([record(1, [[10, 10, 50, 50]], [1], iscrowd=[True])], [prediction([[10, 10, 50, 50]], [1], [0.9])]),
    ],
    ids=["no images", "nothing at all", "no detections", "no objects", "only a crowd"],
)
def test_nothing_is_an_input(rows, predictions):
    a = analysed(FakeRecords(rows, ["a"]), predictions)
    json.dumps(a.as_dict(), allow_nan=False)
    assert a.threshold == 0.5 and not (a.curves[0].best.f1 > 0)


def test_wrong_arguments_are_refused():
    records = FakeRecords([record(1, [], [])], ["a"])
    with pytest.raises(InvalidValueError, match="label 2, but the data set has 1 classes"):
        analysed(records, [prediction([[1, 1, 9, 9]], [2], [0.5])])
    with pytest.raises(InvalidValueError, match="iou must be above"):
        analysed(records, [NOTHING], iou=0.1)
