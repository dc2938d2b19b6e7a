"""The FCOS configs say what their authors published (facts: their configs and README)."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.config import get_cfg, shipped_folder

RECIPES = ("_fast", "_lsj_100ep")  # of ours, laid over one of the authors'
ALL = sorted((shipped_folder("configs") / "fcos").glob("*.yaml"))
FILES = [path for path in ALL if not path.stem.endswith(RECIPES)]
NAMES = """
R_50_FPN_1x R_101_FPN_2x X_101_32x8d_FPN_2x X_101_64x4d_FPN_2x
imprv_R_50_FPN_1x imprv_R_101_FPN_1x imprv_R_101_FPN_2x imprv_X_101_32x8d_FPN_2x imprv_X_101_64x4d_FPN_2x
imprv_dcnv2_R_50_FPN_1x imprv_dcnv2_R_101_FPN_1x imprv_dcnv2_R_101_FPN_2x imprv_dcnv2_X_101_32x8d_FPN_2x
imprv_dcnv2_X_101_64x4d_FPN_2x
bn_bs16_MNV2_FPN_1x syncbn_bs32_MNV2_FPN_1x syncbn_bs32_c128_MNV2_FPN_1x syncbn_bs32_c128_ms_MNV2_FPN_1x
syncbn_bs64_c128_ms_MNV2_FPN_1x
""".split()
WEIGHTS = {"R_50": "ResNet50", "R_101": "ResNet101", "32x8d": "ResNeXt101_32X8D", "64x4d": "ResNeXt101_64X4D"}


def test_every_published_config_is_there_under_its_name():
    assert {path.stem for path in FILES} == {f"fcos_{name}" for name in NAMES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_name_says_what_is_in_it(path: Path):
    name = path.stem
    cfg = get_cfg()
    cfg.merge_from_file(path)
    model, solver, words = cfg.MODEL, cfg.SOLVER, name.split("_")
    assert (model.RPN.NAME, model.ROI_HEADS.NAME, model.FPN.P6_FROM) == ("FCOS", "", "P5")
    assert (solver.BASE_LR, solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_BIAS) == (0.01, 2, 1e-4, 0)
    assert (solver.WARMUP_METHOD, solver.WARMUP_ITERS) == ("constant", 500)
    assert solver.WARMUP_FACTOR == pytest.approx(1 / 3)

    improved = "imprv" in words
    fcos = model.FCOS
    assert (fcos.CENTERNESS_ON_REG, fcos.NORM_REG_TARGETS) == (improved, improved)
    assert (fcos.CENTER_SAMPLING_RADIUS, fcos.IOU_LOSS_TYPE) == ((1.5, "giou") if improved else (0.0, "iou"))

    deformable = "dcnv2" in words
    stages = (False, not name.count("_X_"), True, True) if deformable else (False,) * 4
    assert (model.RESNETS.STAGE_WITH_DCN, fcos.USE_DCN_IN_TOWER) == (stages, deformable)

    mobile, multi_scale = "MNV2" in words, "2x" in words or "ms" in words
    assert model.BACKBONE.FREEZE_CONV_BODY_AT == (0 if mobile else 2)
    assert model.MOBILENET.NORM == ("SyncBN" if "syncbn" in words else "BN")
    assert model.FPN.OUT_CHANNELS == (128 if "c128" in words else 256)
    assert cfg.INPUT.MIN_SIZE_TRAIN == ((640, 800) if multi_scale else (800,))
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == ("range" if multi_scale else "choice")
    weights = "MobileNet_V2" if mobile else next(value for key, value in WEIGHTS.items() if f"_{key}_" in name)
    assert model.WEIGHTS == f"torchvision://{weights}_Weights.IMAGENET1K_V1"
