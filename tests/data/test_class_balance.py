"""Weights of classes by name or by the data, and how common classes are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from detframe.config import get_cfg
from detframe.data import Records
from detframe.data.class_balance import resolve_class_weights, resolve_frequencies
from tests.data.sets import annotation, annotations_of, coco_records

# Objects of each image; "d" is nobody's, and a crowd (negative) does not count
CLASSES = [[1, 1, 1], [1, 2], [1, 1], [], [1, -3], [2, 3]]
CATEGORIES = [{"id": i, "name": name} for i, name in enumerate("abcd", 1)]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return coco_records(tmp_path, annotations_of(CLASSES), [(60, 40)] * len(CLASSES), categories=CATEGORIES)


def config(*words):
    cfg = get_cfg()
    cfg.merge_from_list(list(words))
    return cfg


def test_auto_makes_all_classes_weigh_the_same(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    """7 of a, 2 of b, 1 of c, none of d: each of the three weighs 10 / 3 together, and an object 1 on average."""
    with caplog.at_level(logging.INFO):
        weights = resolve_class_weights(config("MODEL.CLASS_WEIGHTS", "auto"), records.metadata, records)
    assert [name for name, _ in weights] == ["a", "b", "c", "d"]
    assert [w for _, w in weights] == pytest.approx([10 / 21, 10 / 6, 10 / 3, 1.0], rel=1e-5)
    assert "auto: no object is a d; weight 1" in caplog.text and "c 3.33333" in caplog.text


def test_names_that_are_not_given_weigh_1(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("MODEL.CLASS_WEIGHTS", {"c": 4, "a": 0})
    expected = (("a", 0.0), ("b", 1.0), ("c", 4.0), ("d", 1.0))
    with caplog.at_level(logging.INFO):
        assert resolve_class_weights(cfg, records.metadata, records) == expected
    assert caplog.messages == ["MODEL.CLASS_WEIGHTS: a 0, b 1, c 4, d 1"]
    assert resolve_class_weights(cfg, records.metadata, None) == expected


def test_nothing_is_said_where_nothing_is_trained(records: Records) -> None:
    assert resolve_class_weights(config(), records.metadata, records) == ""
    assert resolve_class_weights(config("MODEL.CLASS_WEIGHTS", "auto"), records.metadata, None) == ""


def test_an_unknown_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    names = [{"id": 1, "name": "Platelets"}, {"id": 2, "name": "RBC"}]
    few = coco_records(tmp_path, [annotation(1, 1, [2, 3, 12, 10], 1)], [(60, 40)], categories=names)
    with pytest.raises(ValueError, match=r"WEIGHTS \(from an override\): .* no class 'platelet'; did you mean 'Pla"):
        resolve_class_weights(config("MODEL.CLASS_WEIGHTS", "{platelet: 2}"), few.metadata, few)


def test_frequencies_are_counted_by_image_where_a_loss_needs_them(records: Records) -> None:
    federated = ("MODEL.ROI_BOX_HEAD.CLS_LOSS", "federated")
    assert resolve_frequencies(config(*federated), records) == (4.0, 2.0, 1.0, 0.0)
    assert resolve_frequencies(config(), records) == () == resolve_frequencies(config(*federated), None)
    given = (*federated, "MODEL.ROI_BOX_HEAD.CLASS_FREQUENCIES", (1, 2, 3, 4))
    assert resolve_frequencies(config(*given), records) == (1.0, 2.0, 3.0, 4.0)
    with pytest.raises(ValueError, match=r"CLASS_FREQUENCIES holds 3 numbers, and the data set .* has 4 classes"):
        resolve_frequencies(config(*given[:-1], (1, 2, 3)), records)
