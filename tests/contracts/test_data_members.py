"""Transforms and evaluators: detframe's own keep their contracts."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from detframe.contracts.inputs import Place
from detframe.contracts.results import result_of
from detframe.contracts.running import tests_of as own_tests
from detframe.registry import EVALUATORS, TRANSFORMS
from tests.contracts.faults import broken, found


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
