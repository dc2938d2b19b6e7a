"""detframe's own members keep their contracts, tested by the files that they stand in."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import detframe
from detframe.config import import_custom_modules
from detframe.contracts import test_file as run_contract_tests
from detframe.contracts.inputs import Place
from detframe.contracts.models import tests_of as model_tests
from detframe.contracts.results import result_of
from detframe.registry import MASK_HEADS, META_ARCHITECTURES, ROI_HEADS, RPN_HEADS, Registry

PACKAGE = Path(detframe.__file__).resolve().parent


def file_of(member: type) -> Path:
    return Path(inspect.getfile(member)).resolve()


HEADS = sorted(name for name, head in RPN_HEADS if head.__module__.startswith("detframe.modeling."))
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in map(file_of, map(RPN_HEADS.get, HEADS)))
FILES += [f"modeling/roi_heads/{name}.py" for name in ("standard", "cascade", "point_rend")]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_two_images(name: str):
    """Of GFL and TOOD, whose scores are weights of other losses, the sum of the losses rises at first."""
    path = file_of(RPN_HEADS.get(name))
    (body,) = (body for title, body in model_tests(Place(RPN_HEADS.name, name, path)) if "learned" in title)
    assert result_of(name, "two images are learned", body, path).state == "ok"


@pytest.mark.parametrize("members", [RPN_HEADS, ROI_HEADS, MASK_HEADS, META_ARCHITECTURES], ids=lambda r: r.name)
def test_a_file_of_detframe_is_not_imported_again(members: Registry):
    before = dict(iter(members))
    for member in before.values():
        import_custom_modules([str(file_of(member))])
    assert dict(iter(members)) == before


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_file_of_detframe_keeps_its_contract(file: str):
    results = run_contract_tests(PACKAGE / file)
    assert len(results) >= 10 and not [str(result) for result in results if result.failed]
