"""The model zoo: names of configs, and published weights that compute what their owner's program computes."""

from __future__ import annotations

import hashlib
import io
import pickle

import pytest
import torch
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_weight

from detframe import model_zoo
from detframe.compat.detector_weights import DETECTOR_WEIGHTS
from detframe.config import ConfigKeyError
from tests.modeling import test_fcos_torchvision, test_mask_parity, test_retinanet_parity, test_torchvision_parity
from tests.modeling.parity import assert_golden_detections, assert_same_detections, reference, reference_state

FASTER = "faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml"
SHAKEN = {"retinanet": test_retinanet_parity, "fcos": test_fcos_torchvision}
TORCHVISION = [
    pytest.param(entry, marks=pytest.mark.slow if len(entry.ap) > 1 or "v2_400ep" in entry.config else ())
    for entry in DETECTOR_WEIGHTS
    if entry.owner == "torchvision"
]


# ----------------------------------------------------------------------------------------------- configs by name
@pytest.mark.parametrize(
    "name",
    [
        "faster_rcnn_R_50_FPN_1x",
        "faster_rcnn_R_50_FPN_1x.yaml",
        "faster_rcnn/faster_rcnn_R_50_FPN_1x",
        "configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml",
    ],
)
def test_a_config_by_any_of_its_names(name):
    cfg = model_zoo.get_config(name)
    assert (cfg.MODEL.BACKBONE.CONV_BODY, cfg.SOLVER.MAX_ITER) == ("R-50-FPN", 90000)
    assert cfg.MODEL.WEIGHTS == "torchvision://ResNet50_Weights.IMAGENET1K_V1" and not cfg.is_frozen()


def test_a_stage_of_several_files_by_its_folder():
    cfg = model_zoo.get_config("faster_rcnn_R_50_EFPN_distilled/2_extension")
    assert cfg.MODEL.DISTILL.ON


def test_unknown_and_ambiguous_names_list_the_nearest():
    with pytest.raises(ConfigKeyError, match=r"no shipped config .*faster_rcnn_R_50_FPM_1x.*faster_rcnn_R_50_FPN_1x"):
        model_zoo.get_config("faster_rcnn_R_50_FPM_1x")
    with pytest.raises(ConfigKeyError, match=r"several .*faster_rcnn/faster_rcnn_R_50_C4_1x.*fpn_ablations/"):
        model_zoo.get_config("faster_rcnn_R_50_C4_1x")
    with pytest.raises(ConfigKeyError, match=r"list_configs\(\)"):
        model_zoo.get_config("zzz")


def test_short_names_stand_for_one_config_each():
    names = model_zoo.short_names()
    assert len(names) == len(set(names)) == len(model_zoo.list_configs())
    assert [model_zoo.list_configs(name) for name in names] == [[path] for path in model_zoo.list_configs()]
    assert "faster_rcnn_R_50_FPN_1x" in names and "faster_rcnn_R_50_EFPN_distilled/1_base" in names


def test_listing():
    every = model_zoo.list_configs()
    assert FASTER in every and every == sorted(every)
    assert not [name for name in every if "Base-" in name]
    assert FASTER in model_zoo.list_configs("faster_rcnn_*_1x") and FASTER in model_zoo.list_configs("faster_rcnn/*")
    assert set(model_zoo.list_configs("quick/*")) == {name for name in every if name.startswith("quick/")}
    assert model_zoo.list_configs("nothing*") == []


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_every_config_has_a_number_of_classes(name):
    cfg = model_zoo.get_config(name)
    classes, keypoints = model_zoo.data_classes(cfg)
    assert classes > 0 and (keypoints > 0 or not cfg.MODEL.KEYPOINT_ON)


# ---------------------------------------------------------------------------------------------- published weights
def test_a_config_nobody_has_weights_for_names_the_nearest_that_have_some():
    with pytest.raises(ValueError, match=r"faster_rcnn_R_101_FPN_1x.*nearest.*faster_rcnn_R_101_FPN_3x"):
        model_zoo.get_model("faster_rcnn_R_101_FPN_1x", pretrained=True)
    with pytest.raises(ValueError, match=r"'FCOS'; pretrained may be True or one of detectron2, .*torchvision"):
        model_zoo.get_config(FASTER, pretrained="FCOS")
    with pytest.raises(ValueError, match="needs weights"):
        model_zoo.get_detector(FASTER, pretrained=False)


@pytest.mark.parametrize("entry", DETECTOR_WEIGHTS, ids=lambda e: f"{e.owner} {e.config}")
def test_a_dialect_leaves_body_data_and_schedule(entry):
    plain, theirs = model_zoo.get_config(entry.config), model_zoo.get_config(entry.config, pretrained=entry.weights)
    assert theirs.MODEL.WEIGHTS == entry.weights
    assert (theirs.MODEL.BACKBONE, theirs.DATASETS, theirs.SOLVER) == (
        plain.MODEL.BACKBONE,
        plain.DATASETS,
        plain.SOLVER,
    )
    assert theirs.INPUT.FORMAT == ("RGB" if entry.owner == "torchvision" else "BGR")
    if entry.owner == "detectron2":
        std = (57.375, 57.12, 58.395) if "X_101" in entry.config else (1.0, 1.0, 1.0)
        stride_in_1x1 = "X_101" not in entry.config and "_gn_" not in entry.config
        assert (theirs.INPUT.PIXEL_STD, theirs.MODEL.RESNETS.STRIDE_IN_1X1) == (std, stride_in_1x1)


def test_without_weights_a_model_has_the_classes_of_its_data():
    model = model_zoo.get_model("quick/keypoint_rcnn_R_18_FPN_shapes")
    assert model.num_classes == 5 and not model.training
    assert model.roi_heads.keypoint.predictor.kps_score_lowres.out_channels == 4
    assert model_zoo.get_model("quick/fcos_R_18_FPN_shapes", num_classes=7).num_classes == 7


def serve(site, path, content):
    """Put content on the server under a path that may hold {sha256} and {md5}; returns the address."""
    files, _, address = site
    hashes = {name: hashlib.new(name, content).hexdigest() for name in ("sha256", "md5")}
    path = path.format(sha256=hashes["sha256"][:8], md5=hashes["md5"][:6])
    files[path] = content, len(content)
    return f"{address}{path}"


def shake(model, name):
    """Random weights with which every part matters."""
    family = next((module for start, module in SHAKEN.items() if name.startswith(start)), test_torchvision_parity)
    with torch.no_grad():
        family._shake(model)
        if family is test_torchvision_parity:
            # some of 91 classes must stand out, also from the small activations behind norms
            model.roi_heads.box_predictor.cls_score.weight.normal_(0, 2.0 if name.endswith("v2") else 0.4)


def builder_of(entry):
    """torchvision's function that takes these weights, and its name."""
    weights = get_weight(entry.weights.removeprefix("torchvision://"))
    name = type(weights).__name__.removesuffix("_Weights").lower()
    return getattr(torchvision_detection, name), name, weights


@pytest.mark.parametrize("entry", TORCHVISION, ids=lambda entry: entry.weights.rpartition("/")[2])
def test_torchvision_own_loading_and_ours_detect_the_same(entry, site, tmp_path, monkeypatch):
    """Random weights stand on a server as torchvision's; it loads them its way, with its eps, and the zoo does."""
    build, name, weights = builder_of(entry)
    torch.manual_seed(0)
    random = build(weights=None, weights_backbone=None, num_classes=len(weights.meta["categories"]))
    shake(random, name)
    if entry.num_classes == 90 and not hasattr(random, "rpn"):
        never_the_background(random)
    file = io.BytesIO()
    torch.save(random.state_dict(), file)
    monkeypatch.setattr(weights.value, "url", serve(site, f"/models/{name}_coco-{{sha256}}.pth", file.getvalue()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    theirs = build(weights=weights, progress=False).eval().to(memory_format=torch.channels_last)
    theirs.transform.resize = lambda image, target: (image, target)
    ours = model_zoo.get_model(entry.config, pretrained=entry.weights)
    image = torch.rand(3, 150, 256, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        (expected,), (actual,) = theirs([image]), ours([image])
    assert_same_detections(actual, expected["boxes"], expected["labels"], expected["scores"], atol=1e-4)
    assert ours.num_classes == len(weights.meta["categories"]) - 1
    assert {m.eps for m in ours.backbone.modules() if hasattr(m, "running_var")} == {
        m.eps for m in theirs.backbone.modules() if hasattr(m, "running_var")
    }
    if "keypoints" in expected:
        rows = test_mask_parity.matched(expected, actual)
        assert ((actual["keypoints"][rows] - expected["keypoints"]).abs() < 1e-3).float().mean() > 0.99


def never_the_background(model):
    """Column 0 of a dense head, which no data set has trained."""
    head = model.head.classification_head.cls_logits
    anchors = model.head.classification_head.num_anchors
    head.weight.data.unflatten(0, (anchors, -1))[:, 0] = 0
    head.bias.data.unflatten(0, (anchors, -1))[:, 0] = -50


@pytest.fixture
def detectron2(site, monkeypatch):
    """detectron2's host with the reference's weights as its R_50_FPN_1x; the entry of the table, the reference."""
    ref, arrays = reference("d2_faster_rcnn_R_50_FPN")
    model = {name: value.numpy() for name, value in reference_state(ref).items()}
    content = pickle.dumps({"model": model, "__author__": "Detectron2 Model Zoo"}, protocol=2)
    monkeypatch.setattr("detframe.compat.download.DETECTRON2_FILES", site[2])
    address = serve(site, "/COCO-Detection/faster_rcnn_R_50_FPN_1x/1/model_final_{md5}.pkl", content)
    entry = model_zoo.find_weights(FASTER, "detectron2")
    served = type(entry)(entry.config, entry.owner, address, entry.dialect, entry.keys, entry.ap)
    monkeypatch.setattr(model_zoo, "DETECTOR_WEIGHTS", (served,))
    return served, ref, arrays


def test_detectron2(detectron2, site, monkeypatch):
    """The reference's detections, from a file with an MD5 in its name; fetched once, then found in the cache."""
    entry, ref, arrays = detectron2
    model = model_zoo.get_model(FASTER, pretrained="detectron2")
    assert model.num_classes == 80 and not model.training
    assert_golden_detections(model, ref, arrays)
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    detector = model_zoo.get_detector(FASTER, device="cpu", amp="off")
    assert site[1] == [entry.weights.removeprefix(site[2])]
    assert (detector.class_names[0], detector.category_ids[-1], len(detector.class_names)) == ("person", 90, 80)
    tuned = model_zoo.get_model(FASTER, pretrained=True, num_classes=3)
    assert tuned.num_classes == 3
    assert torch.equal(tuned.roi_heads.box_head.fc6.weight, model.roi_heads.box_head.fc6.weight)


def test_offline_a_changed_file_and_another_architecture(detectron2, site, tmp_path, monkeypatch):
    entry, *_ = detectron2
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"DETFRAME_OFFLINE is set .*put the file at"):
        model_zoo.get_model(FASTER, pretrained=True)
    monkeypatch.delenv("DETFRAME_OFFLINE")
    site[0][entry.weights.removeprefix(site[2])] = b"another file", 12
    with pytest.raises(ValueError, match=r"its md5 is .* it should begin with"):
        model_zoo.get_model(FASTER, pretrained=True)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    body = {k: v for k, v in reference_state(reference("d2_faster_rcnn_R_50_FPN")[0]).items() if "roi_heads" not in k}
    torch.save(body, tmp_path / "half.pth")
    half = type(entry)(entry.config, entry.owner, str(tmp_path / "half.pth"), entry.dialect)
    monkeypatch.setattr(model_zoo, "DETECTOR_WEIGHTS", (half,))
    with pytest.raises(ValueError, match=r"half\.pth is not the checkpoint .*roi_heads\.box_head\.fc6\.weight.* more"):
        model_zoo.get_model(FASTER, pretrained=True)
