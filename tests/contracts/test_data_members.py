"""Transforms and evaluators: detframe's own keep their contracts, and what is broken in others is named."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from detframe.contracts.inputs import Place
from detframe.contracts.results import result_of
from detframe.contracts.running import tests_of as own_tests
from detframe.registry import EVALUATORS, TRANSFORMS
from tests.contracts.faults import assert_named, broken, found

ALONG = "what has coordinates moves along"
BROKEN = [
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "return (image * factors)[:, 1:].to(image.dtype), target",
        "images and targets",
        r"keeps_size.*\(95, 128\) of \(96, 128\)",
    ),
    (
        "transform",
        "(image * factors)",
        "(image * factors * torch.ones(3, 1, 1))",
        "images of other channels and types",
        r"an image of 4 channels \(torch\.float32\) ends in RuntimeError.*say `of_colours = True`",
    ),
    ("transform", "generator=generator) < 0.5", "generator=None) < 0.5", "the same seed gives the same", "generator"),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "image *= 0; return image, target",
        "what came is left as it was",
        "changed the image that it was given",
    ),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "return image.flip(-1), target",
        ALONG,
        "boxes do not lie where the image shows",
    ),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "w = image.shape[-1]; boxes = target['boxes'].clone(); boxes[:, ::2] = w - boxes[:, [2, 0]]; "
        "return image.flip(-1), {**target, 'boxes': boxes}",
        ALONG,
        "masks do not lie in their boxes",
    ),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "return image, {**target, 'keypoints': target['keypoints'] + 50}",
        ALONG,
        "the keypoint in the middle",
    ),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "return image, {**target, 'ignore_boxes': target['ignore_boxes'] + 50}",
        ALONG,
        "ignore_boxes do not lie",
    ),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "return image, {**target, 'boxes': target['boxes'][:0], 'labels': target['labels'][:0]}",
        ALONG,
        "0 boxes but 1 masks",
    ),
    (
        "transform",
        "return (image * factors).to(image.dtype), target",
        "self.turn = not getattr(self, 'turn', False); return image // (1 + self.turn), target",
        "the same seed gives the same",
        "call 2 with the same seed",
    ),
    (
        "evaluator",
        "best = prediction",
        "prediction['scores'] *= 0.5; best = prediction",
        "metrics",
        r"update\(\) changed the predictions",
    ),
    (
        "evaluator",
        "self.counts[image] = ",
        "self.counts[image, len(self.counts)] = ",
        "reset forgets, and an image counts once",
        "comes twice, as from two processes, counts twice",
    ),
    (
        "evaluator",
        "gather_objects(self.counts)",
        "[self.counts]",
        "two processes compute as one",
        r"process 1 of two .*/recall': 0\.0, .*/recall': 66.*gather what all processes have seen",
    ),
    (
        "evaluator",
        "recall = 100 * found",
        "if not detections:\n            return {'none': 0.0}\n        recall = 100 * found",
        "images without objects and detections",
        "the names of the metrics depend on what is found",
    ),
    (
        "evaluator",
        "self.counts: dict[Any, Counts] = {}",
        "self.counts = getattr(self, 'counts', {})",
        "reset forgets, and an image counts once",
        r"reset\(\) does not forget",
    ),
    (
        "evaluator",
        '/precision": precision}',
        '/precision": str(precision)}',
        "metrics",
        r"a dict of numbers by name, not .*'100\.0'",
    ),
]


@pytest.mark.parametrize(("kind", "old", "new", "test", "says"), BROKEN)
def test_what_is_broken_is_named(kind: str, old: str, new: str, test: str, says: str, tmp_path: Path):
    assert_named(kind, broken(kind, old, new, tmp_path), test, says)


def named(members):
    return sorted(name for name, member in members if member.__module__.startswith("detframe."))


def results(members, name):
    file = Path(inspect.getfile(members.get(name)))
    for title, body in own_tests(Place(members.name, name, file)):
        if not title.startswith("two processes") or name == "coco":  # which others are made of
            yield result_of(name, title, body, file)


@pytest.mark.parametrize("name", named(TRANSFORMS))
def test_transforms(name: str):
    wrong = {result.test: result.why for result in results(TRANSFORMS, name) if result.state != "ok"}
    assert not wrong


# lvis wants a data set that says which classes were looked for
@pytest.mark.parametrize("name", [name for name in named(EVALUATORS) if name != "lvis"])
def test_evaluators(name: str):
    wrong = {result.test: result.why for result in results(EVALUATORS, name) if result.state != "ok"}
    assert not wrong


@pytest.mark.parametrize("form", ["torch.tensor(recall)", "numpy.float32(recall)"])
def test_metrics_may_be_numbers_of_other_libraries(form: str, tmp_path: Path):
    """As a run takes them."""
    file = broken("evaluator", '/recall": recall', f'/recall": {form}', tmp_path)
    file.write_text(f"import numpy\n{file.read_text()}")
    assert found("evaluator", file, "metrics").state == "ok"
