"""Targets that were checked where they were made are not checked again, unless something has changed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from detframe.data.samples import Parcel, Sample
from detframe.errors import InvalidValueError
from detframe.structures import CheckedTarget, checked_target, contract, validate_target

SIZE = (20, 30)
WRONG = torch.tensor([[5.0, 5, 5, 9]])


def good():
    return {"boxes": torch.tensor([[1.0, 2, 9, 8]]), "labels": torch.tensor([2]), "image_id": 3}


@pytest.fixture
def looks(monkeypatch):
    """How often the boxes of a target were looked at."""
    seen, plain = [], contract._check_boxes
    monkeypatch.setattr(contract, "_check_boxes", lambda *args: (seen.append(args), plain(*args)))
    return seen


def test_a_target_is_checked_once(looks):
    target = checked_target(good(), 3, SIZE)
    assert target.keys() == good().keys() and len(looks) == 1
    for size in (SIZE, None):
        validate_target(target, 3, size)
    assert len(looks) == 1


@pytest.mark.parametrize("way", ["other classes", "other size", "copy", "new entry", "changed entry", "updated"])
def test_what_changed_is_checked_again(looks, way):
    target = checked_target(good(), 3, SIZE)
    classes, size = 1 + (way != "other classes") * 2, (20, 31) if way == "other size" else SIZE
    if way == "copy":
        target = {**target, "boxes": WRONG}
    elif way == "new entry":
        target["ignore_boxes"] = WRONG
    elif way == "changed entry":
        target["boxes"] = WRONG
    elif way == "updated":
        target.update(boxes=WRONG)
    if way == "other size":
        validate_target(target, classes, size)
        assert len(looks) == 2
        return
    with pytest.raises(InvalidValueError, match="label 2" if way == "other classes" else "no area"):
        validate_target(target, classes, size)


def test_what_breaks_the_contract_is_not_called_checked():
    with pytest.raises(InvalidValueError, match=r"image 3: box .* has no area"):
        checked_target({**good(), "boxes": WRONG}, 3, SIZE)


@pytest.mark.parametrize("sent", [copy.deepcopy, lambda target: pickle.loads(pickle.dumps(target))])
def test_copies_of_the_whole_stay_checked(looks, sent):
    validate_target(sent(checked_target(good(), 3, SIZE)), 3, SIZE)
    assert len(looks) == 1


def test_a_target_from_a_worker_stays_checked(looks):
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    samples = [Sample(image, checked_target(good(), 3, SIZE), []), Sample(image, good(), [])]
    parcel = pickle.loads(pickle.dumps(Parcel(samples)))
    first, second = parcel.unpack(torch.zeros(2 * image.numel(), dtype=torch.uint8))
    assert isinstance(first.target, CheckedTarget) and type(second.target) is dict
    assert torch.equal(first.target["boxes"], good()["boxes"])
    validate_target(first.target, 3, SIZE)
    assert len(looks) == 1
    validate_target(second.target, 3, SIZE)
    assert len(looks) == 2
