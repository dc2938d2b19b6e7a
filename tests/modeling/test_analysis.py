"""The analysis against published counts of parameters and operations, and counts made by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)

from detframe.cli import analyze as command
from detframe.config import get_cfg
from detframe.layers import ConvNorm, DeformConv, folding
from detframe.modeling import build_detection_model
from detframe.modeling.analysis import analyze, table
from detframe.modeling.backbones import ResNet, ResNetSpec
from tests.modeling.tiny import make_images, tiny_config


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = ConvNorm(3, 8, 3, 2, norm="FrozenBN", relu=True)
        self.last = nn.Linear(8, 5)

    def forward(self, images):
        return self.last(self.first(torch.stack(images).float()).mean((2, 3)))


def test_counts_made_by_hand():
    model, first, _, last = (r for r in analyze(Net(), [torch.zeros(3, 16, 20)], depth=2, runs=1))
    assert (model.parameters, first.parameters, last.parameters) == (3 * 8 * 9 + 45, 3 * 8 * 9, 45)
    assert (first.macs, last.macs) == (8 * 10 * 3 * 8 * 9, 8 * 5)
    assert model.macs == first.macs + last.macs
    assert (first.activations, last.activations) == (8 * 10 * 8, 5)
    assert model.activations == 8 * 10 * 8 + 5
    assert model.seconds >= first.seconds > 0


def test_a_deformable_convolution_counts_as_a_plain_one_beside_its_offsets():
    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv(4, 6, 3, stride=2, groups=2)

        def forward(self, images):
            return self.conv(torch.stack(images))

    row = analyze(Deformable(), [torch.rand(4, 8, 10)], depth=0, runs=1)[0]
    assert row.macs == 4 * 5 * 9 * (6 * 4 // 2 + 27 * 4)


def test_a_resnet_50_has_the_published_operations():
    """torchvision states 4.089 G multiply-adds at 224x224, its last layer included."""

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = ResNet(ResNetSpec(50))

        def forward(self, images):
            return self.body(torch.stack(images))

    row = analyze(Body(), [torch.zeros(3, 224, 224)], depth=0, runs=1)[0]
    assert round((row.macs + 2048 * 1000) / 1e9, 3) == ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]


PUBLISHED = [
    # ours has no box deltas of the background
    ("", FasterRCNN_ResNet50_FPN_Weights, -4 * (1024 + 1)),
    # ours predicts no class 0, which torchvision's never uses
    ("configs/Base-FCOS-torchvision.yaml", FCOS_ResNet50_FPN_Weights, -(256 * 9 + 1)),
    ("configs/Base-RetinaNet-torchvision.yaml", RetinaNet_ResNet50_FPN_Weights, -9 * (256 * 9 + 1)),
]


@pytest.mark.parametrize(("config", "weights", "difference"), PUBLISHED, ids=["faster_rcnn", "fcos", "retinanet"])
def test_detectors_have_the_published_parameters(config, weights, difference):
    cfg = get_cfg()
    if config:
        cfg.merge_from_file(config)
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 90, "MODEL.DEVICE", "cpu"])
    model = build_detection_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == weights.COCO_V1.meta["num_params"] + difference


def test_folding_changes_nothing_but_the_time():
    """The maps are compared: in the losses, rounding could choose between two proposals that lie close."""
    torch.manual_seed(0)
    model = build_detection_model(tiny_config({"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32}))
    x = model.preprocessor(make_images()).tensors
    folded = model.backbone(x)
    with folding(False):
        plain = model.backbone(x)
    for name in folded:
        torch.testing.assert_close(folded[name], plain[name], rtol=1e-4, atol=1e-4)
    again = model.backbone(x)
    assert all(torch.equal(again[name], folded[name]) for name in folded)


def test_the_command(tmp_path, capsys):
    words = [
        "MODEL.BACKBONE.CONV_BODY",
        "R-18-FPN",
        "MODEL.FPN.OUT_CHANNELS",
        "16",
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM",
        "8",
    ]
    arguments = ["--size", "64", "96", "--runs", "1", "--json", str(tmp_path / "a.json"), *words]
    assert command.main(arguments) == 0
    out = capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    rows = written.pop("rows")
    assert written == {"size_hw": [64, 96], "padded_hw": [64, 96], "batch": 1}
    names = [row["name"] for row in rows]
    assert {"", "backbone", "backbone.body", "backbone.fpn", "rpn.head", "roi_heads.box_head"} <= set(names)
    total = next(row for row in rows if row["name"] == "")
    parts = [row for row in rows if row["depth"] == 1]
    assert total["parameters"] == sum(row["parameters"] for row in parts)
    assert total["macs"] == sum(row["macs"] for row in parts) > 0
    assert len(out.splitlines()) == len(rows) + 2 and "GMAC" in out
    assert out.startswith("1 image of 64x96 pixels (--size), padded to 64x96, on cpu\n")
    assert table([])[:6] == "module"


def test_the_command_takes_the_size_of_the_config_and_counts_a_batch(capsys):
    words = (
        "MODEL.BACKBONE.CONV_BODY R-18-FPN MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM 8 "
        "INPUT.MIN_SIZE_TEST 60 INPUT.MAX_SIZE_TEST 70 --runs 1 --depth 1"
    ).split()

    def backbone(*more: str) -> tuple[str, float]:
        """The line above the table, and the GMAC of the backbone, which the random weights do not change."""
        assert command.main([*words, *more]) == 0
        about, _, _, row, *_ = capsys.readouterr().out.splitlines()
        return about, float(row.split()[3])

    about, macs = backbone()
    why = "a file of 480x640, by INPUT.MIN_SIZE_TEST 60, MAX_SIZE_TEST 70"
    assert about == f"1 image of 53x70 pixels ({why}), padded to 64x96, on cpu"
    about, twice = backbone("--batch", "2")
    assert about.startswith("2 images of 53x70 pixels") and twice == pytest.approx(2 * macs, abs=0.011)
    about, _ = backbone("INPUT.TILES.SIZE", "50")
    assert about.startswith("1 image of 60x60 pixels (a tile, INPUT.TILES.SIZE 50, by INPUT.MIN_SIZE_TEST 60,")
    about, _ = backbone("INPUT.MIN_SIZE_TEST", "0", "INPUT.TILES.SIZE", "40")
    assert "40x40 pixels (a tile, INPUT.TILES.SIZE 40, INPUT.MIN_SIZE_TEST 0 resizes none), padded" in about


class InParts(nn.Module):
    """Calls the two layers of its body without calling the body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1))

    def forward(self, images):
        return self.body[1](self.body[0](images[0][None]))


def test_a_part_that_is_not_called_as_a_whole_counts_what_its_own_parts_do():
    rows = {row.name: row for row in analyze(InParts(), [torch.zeros(3, 8, 8)], depth=2, runs=1)}
    assert rows["body"].macs == rows[""].macs == 64 * (27 * 4 + 16)
    assert rows["body"].macs == rows["body.0"].macs + rows["body.1"].macs
    assert rows["body"].seconds is None
