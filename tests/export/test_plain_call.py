"""The call that torchvision's documentation ends with exports a detector as well: torch.onnx.export(model, x, file)."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from detframe.errors import InvalidValueError
from detframe.ops.keypoints import heatmaps_to_keypoints, keypoints_at_once
from tests.export.test_families import FAMILIES, build
from tests.export.test_families import slim as slim

KEYS = {"mask": ["masks"], "cascade with masks": ["masks"], "keypoint": ["keypoints"]}


def images(seed: int, *sizes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((3, *size), generator=generator) for size in sizes]


def plain_call(model, args, path, **how):
    """The session of what it writes, which says that nothing of detframe's is unknown to onnxruntime."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, which warns of itself and of every number
        torch.onnx.export(model, args, str(path), **how)
    return onnxruntime.InferenceSession(path)


def compare(model, session, x, extras):
    """What the file gives, an image after another, as torchvision's models give it; returns the rows of each."""
    names = [node.name for node in session.get_inputs()]
    assert len(names) == len(x)
    results = session.run(None, {name: image.numpy() for name, image in zip(names, x, strict=True)})
    with torch.no_grad():
        found = model(x)
    keys = ["boxes", "labels", "scores", *extras]
    assert all(list(one) == keys for one in found)
    wanted = [one[key].numpy() for one in found for key in keys]
    assert len(results) == len(wanted)
    for result, value in zip(results, wanted, strict=True):
        assert result.shape == value.shape and result.dtype == value.dtype
        np.testing.assert_allclose(result, value, atol=1e-3)
    return [len(one["boxes"]) for one in found]


@pytest.mark.parametrize(
    "family", ["faster", "mask", "keypoint", "cascade with masks", "fcos", "retinanet", "rpn alone"]
)
def test_a_bare_list_with_opset_11(family, tmp_path):
    """By TorchScript, which was the default before PyTorch 2.9; its graphs keep the sizes of the images alone."""
    model = build(FAMILIES[family])
    sizes = (97, 130), (64, 90)
    x = images(1, *sizes)
    path = tmp_path / "model.onnx"
    session = plain_call(model, x, path, opset_version=11, dynamo=False)
    assert len(x) == 2  # the list is the caller's
    assert [entry.version for entry in onnx.load(path).opset_import] == [11]
    extras = KEYS.get(family, [])
    assert min(compare(model, session, x, extras)) > 0
    assert min(compare(model, session, images(2, *sizes), extras)) > 0
    if "alone" not in family:  # where something is always proposed
        grey = [model.preprocessor.mean.expand(3, *size) / 255 for size in sizes]
        assert compare(model, session, grey, extras) == [0, 0]


def test_a_list_of_one_image(tmp_path):
    model = build(FAMILIES["retinanet"])
    x = images(1, (97, 130))
    session = plain_call(model, list(x), tmp_path / "model.onnx", opset_version=11, dynamo=False)
    assert min(compare(model, session, x, [])) > 0


@pytest.mark.slow  # tests/export/test_families.py has RetinaNet by this exporter
@pytest.mark.parametrize("family", ["faster", "keypoint"])
def test_the_exporter_by_torch_export(family, tmp_path):
    """It knows no operators before 18, and leaves them where it cannot convert them."""
    model = build(FAMILIES[family])
    sizes = (97, 130), (64, 90)
    x = images(1, *sizes)
    session = plain_call(model, (x,), tmp_path / "model.onnx", opset_version=11, dynamo=True, verbose=False)
    assert min(compare(model, session, x, KEYS.get(family, []))) > 0
    assert min(compare(model, session, images(2, *sizes), KEYS.get(family, []))) > 0


def test_options_of_a_pass_are_known_by_name_alone():
    model = build(FAMILIES["mask"])
    x = images(1, (64, 90))
    with torch.no_grad():
        (small,), (whole,) = model(x, paste_masks=False), model(x, None, paste_masks=True)
    assert small["masks"].shape == whole["masks"].shape and not isinstance(small["masks"], torch.Tensor)
    with pytest.raises(TypeError, match="paste_mask"):
        model(x, paste_mask=False)
    with pytest.raises(InvalidValueError, match="image 2 of 2"):  # outside of a trace a list is what it says
        model([*x, torch.zeros(3)])


def test_the_points_of_a_trace_are_those_of_the_heatmaps():
    """Along the border several numbers of a heatmap's enlargement fall on one place."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((6, 2, 8, 8), generator=generator)
    logits[:3, :, 0, 0] = 9.0
    start = torch.rand((6, 2), generator=generator) * 9
    boxes = torch.cat([start, start + torch.rand((6, 2), generator=generator) * 40 + 1], 1)
    wanted = heatmaps_to_keypoints(logits, boxes)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(keypoints_at_once, (logits.clone(), boxes.clone()), check_trace=False)
    torch.testing.assert_close(traced(logits, boxes), wanted)
    torch.testing.assert_close(traced(logits.flip(0), boxes.flip(0)), wanted.flip(0))
