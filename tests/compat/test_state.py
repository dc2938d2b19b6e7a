"""Finding the weights in what a checkpoint holds: nesting, prefixes, precision, moving averages."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from detframe.compat import load_weights
from detframe.compat.state import find_state_dict
from tests.compat.models import C4, assert_same, random_model, renamed
from tests.compat.programs.test_detectron import BOX as DETECTRON_BOX
from tests.compat.programs.test_detectron import FPN, RPN_FPN, blobs_of


@pytest.fixture(scope="module")
def source():
    return random_model()


def wrapped(state, prefix):
    return {prefix + name: value for name, value in state.items()}


PREFIXES = ["module.", "model.", "model.module.", "_orig_mod.", "module._orig_mod.", "model._orig_mod."]
PLACES = ["model", "state_dict", "net", "model_state_dict", "model.state_dict", "ema", "ema.module"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers(source, prefix):
    model = random_model()
    assert_same(source, model, load_weights(model, wrapped(source.state_dict(), prefix)), "detframe")


def test_compiled_parts(source):
    state = {name.replace("backbone.", "backbone._orig_mod."): v for name, v in source.state_dict().items()}
    model = random_model()
    assert_same(source, model, load_weights(model, state), "detframe")


@pytest.mark.parametrize("path", PLACES)
def test_places_in_a_file(source, path, tmp_path):
    content = source.state_dict()
    for key in reversed(path.split(".")):
        content = {key: content, "epoch": 12, "best": 0.5}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content |= {"optimizer": optimizer, "lr_scheduler": {"last_epoch": 3}, "iteration": 9}
    torch.save(content, tmp_path / "a.pth")
    model = random_model()
    report = load_weights(model, tmp_path / "a.pth")
    assert_same(source, model, report, "detframe")
    assert report.notes == (["read from 'ema', a moving average"] if path.startswith("ema") else [])


@pytest.mark.parametrize("average", ["ema", "model_ema", "state_dict_ema"])
def test_weights_come_before_their_moving_average(source, average):
    other, model = random_model(), random_model()
    report = load_weights(model, {"model": source.state_dict(), average: other.state_dict()})
    assert_same(source, model, report, "detframe")
    note = f"read from 'model'; the moving average in '{average}' is not used"
    assert report.notes == [note] and note in report.table()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(source, dtype, tmp_path):
    stored = {name: v.to(dtype) if v.is_floating_point() else v for name, v in source.state_dict().items()}
    torch.save({"model": stored}, tmp_path / "a.pth")
    model = random_model()
    report = load_weights(model, tmp_path / "a.pth")
    assert report.notes == [f"stored as {str(dtype).removeprefix('torch.')}, loaded as float32"]
    for name, value in model.state_dict().items():
        assert value.dtype != dtype and torch.equal(value, stored[name].to(value.dtype)), name


def test_merged_norms_in_half_precision_are_exact(source):
    """1 - eps is 1 in half precision."""
    blobs = blobs_of(source, FPN | RPN_FPN | DETECTRON_BOX, sizes=1)
    model = random_model()
    load_weights(model, {name: torch.from_numpy(value).half() for name, value in blobs.items()})
    norm = model.backbone.body.layer2[0].bn1
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    torch.testing.assert_close(scale, torch.from_numpy(blobs["res3_0_branch2a_bn_s"]).half().float(), rtol=2e-7, atol=0)


def test_arrays_of_numpy(source):
    state = {name: value.numpy() for name, value in source.state_dict().items()}
    model = random_model()
    assert_same(source, model, load_weights(model, {"model": state, "best": np.float64(1)}), "detframe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"a file holds no tensors: the dict is empty"),
        ({"model": {}}, r"a file, in 'model', holds no tensors: the dict is empty"),
        ({"epoch": 3, "loss": 0.1}, r"a file holds no tensors: its keys are 'epoch', 'loss'"),
        ({"state_dict": {"model": {"a": 1}}}, r"in 'state_dict\.model', holds no tensors: its keys are 'a'"),
        ([torch.ones(2)], r"a file holds a list, not a state dict"),
        (torch.ones(2), r"a file holds a Tensor, not a state dict"),
    ],
)
def test_no_weights(content, message):
    with pytest.raises(ValueError, match=message):
        find_state_dict(content, "a file")


def test_class_names_of_detframe():
    found = find_state_dict({"model": {"a": torch.ones(1)}, "meta": {"class_names": ["cat", "dog"]}}, "a file")
    assert found.class_names == ("cat", "dog") and not found.notes
    assert find_state_dict({"a": torch.ones(1), "meta": "text"}, "a file").class_names == ()


DETECTRON2 = {
    "backbone.bottom_up.stem.conv1": "backbone.body.conv1",
    "backbone.bottom_up.stem.conv1.norm": "backbone.body.bn1",
    **{f"backbone.bottom_up.res{s + 1}.{b}.conv{c}.norm": f"backbone.body.layer{s}.{b}.bn{c}"
       for s in (1, 2, 3, 4) for b in (0, 1) for c in (1, 2)},
    **{f"backbone.bottom_up.res{s + 1}.{b}.conv{c}": f"backbone.body.layer{s}.{b}.conv{c}"
       for s in (1, 2, 3, 4) for b in (0, 1) for c in (1, 2)},
    **{f"backbone.bottom_up.res{s + 1}.0.shortcut": f"backbone.body.layer{s}.0.downsample.0" for s in (1, 2, 3, 4)},
    **{f"backbone.bottom_up.res{s + 1}.0.shortcut.norm": f"backbone.body.layer{s}.0.downsample.1"
       for s in (1, 2, 3, 4)},
    "backbone.fpn_lateral2": "backbone.fpn.inner_blocks.0.0",
    "backbone.fpn_lateral3": "backbone.fpn.inner_blocks.1.0",
    "backbone.fpn_lateral4": "backbone.fpn.inner_blocks.2.0",
    "backbone.fpn_lateral5": "backbone.fpn.inner_blocks.3.0",
    "backbone.fpn_output2": "backbone.fpn.layer_blocks.0.0",
    "backbone.fpn_output3": "backbone.fpn.layer_blocks.1.0",
    "backbone.fpn_output4": "backbone.fpn.layer_blocks.2.0",
    "backbone.fpn_output5": "backbone.fpn.layer_blocks.3.0",
    "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
}  # fmt: skip


@pytest.mark.parametrize("heuristics", [True, False])
def test_a_published_pickle_of_detectron2(source, heuristics, tmp_path):
    """Arrays, beside the author and the flag of its own loader; anchors and pixel values are no weights."""
    theirs = {name: value.numpy() for name, value in renamed(source, DETECTRON2).items()}
    for ending in ("weight", "bias"):
        name = f"roi_heads.box_predictor.cls_score.{ending}"
        theirs[name] = np.concatenate([theirs[name][1:], theirs[name][:1]])
    theirs |= {"pixel_mean": np.ones((3, 1, 1)), "pixel_std": np.ones((3, 1, 1))}
    theirs |= {f"proposal_generator.anchor_generator.cell_anchors.{i}": np.ones((3, 4)) for i in range(5)}
    content = {"model": theirs, "__author__": "Detectron2 Model Zoo"}
    content |= {"matching_heuristics": True} if heuristics else {}
    path = tmp_path / "model_final_f10217.pkl"
    path.write_bytes(pickle.dumps(content))
    model = random_model()
    report = load_weights(model, path)
    assert_same(source, model, report, "detectron2")


def test_the_same_for_a_head_with_res5():
    source, model = random_model(*C4), random_model(*C4)
    assert_same(source, model, load_weights(model, {"model": wrapped(source.state_dict(), "module.")}), "detframe")
