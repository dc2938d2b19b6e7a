"""The command that rewrites another program's config."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from detframe.cli import train, translate_config
from detframe.config import get_cfg
from tests.cli.test_runs import workplace  # noqa: F401  (a fixture)
from tests.config.foreign import standard_configs

ROOT = Path(__file__).resolve().parents[2]


def test_the_native_file_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "detframe")
    old = standard_configs("fcos")["fcos/fcos_imprv_R_50_FPN_1x.yaml"]
    assert translate_config.main([str(old), "MODEL.WEIGHT", "mine.pth", "SOLVER.AMP", "bf16"]) == 0
    out = capsys.readouterr()
    assert "FCOS: MODEL.FCOS.IOU_LOSS_TYPE 'giou' stays" in caplog.text
    assert "FCOS: MODEL.WEIGHT 'mine.pth' -> MODEL.WEIGHTS 'mine.pth'" in caplog.text
    assert "DATALOADER.SIZE_DIVISIBILITY 32" in caplog.text and "has no meaning in detframe" in caplog.text
    new = tmp_path / "new.yaml"
    new.write_text(out.out)
    native, translated = get_cfg(), get_cfg()
    native.merge_from_file(new)
    translated.merge_from_file(old)
    translated.merge_from_list(["MODEL.WEIGHT", "mine.pth", "SOLVER.AMP", "bf16"])
    changed = {key for key, value in native.leaves() if value != dict(translated.leaves())[key]}
    # what belongs to the detectors that it is not is left out
    others = (
        "MODEL.RETINANET.",
        "MODEL.RPN.ANCHOR_",
        "MODEL.ROI_BOX_HEAD.",
        "MODEL.ROI_MASK_HEAD.",
        "MODEL.ROI_KEYPOINT_HEAD.",
    )
    assert changed and all(key.startswith(others) for key in changed) and native.translation == ()
    assert native.MODEL.FCOS == translated.MODEL.FCOS and "RETINANET:" not in out.out


def test_the_script_pipes_a_clean_file(tmp_path: Path):
    old = standard_configs("detectron2")["COCO-Detection/retinanet_R_50_FPN_1x.yaml"]
    command = [sys.executable, "tools/translate_config.py", str(old)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "detectron2: MODEL.META_ARCHITECTURE 'RetinaNet'" in done.stderr
    new = tmp_path / "new.yaml"
    new.write_text(done.stdout)
    cfg = get_cfg()
    cfg.merge_from_file(new)
    assert cfg.MODEL.RPN.NAME == "RetinaNet" and cfg.MODEL.RETINANET.LOSS_NORMALIZER == "ema"


def test_a_file_of_ours_needs_no_translation(capsys: pytest.CaptureFixture[str]):
    assert translate_config.main(["fcos/fcos_R_50_FPN_1x.yaml"]) == 2
    assert "a config of detframe already" in capsys.readouterr().err


def test_training_takes_the_old_file_and_logs_the_translation(workplace: Path):  # noqa: F811
    Path("old.yaml").write_text(
        "MODEL:\n"
        "  META_ARCHITECTURE: GeneralizedRCNN\n"
        "  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}\n"
        "  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: BN, OUT_FEATURES: [res2, res3, res4, res5]}\n"
        "  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}\n"
        "  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [128]]}\n"
        "  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6]}\n"
        "  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], NUM_CLASSES: 5}\n"
        "  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, FC_DIM: 64, POOLER_RESOLUTION: 7}\n"
        "INPUT: {MIN_SIZE_TRAIN: [96], MIN_SIZE_TEST: 96}\n"
        "SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 1, STEPS: [1]}\n"
        "TEST: {PRECISE_BN: {ENABLED: True, NUM_ITER: 2}}\n"
        "VIS_PERIOD: 20\nVERSION: 2\n"
    )
    words = ["--config-file", "old.yaml", "DATASETS.TRAIN", "shapes_train", "DATASETS.TEST", "shapes_val"]
    words += ["OUTPUT_DIR", "out", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    assert train.main(words) == 0
    log = Path("out/log.txt").read_text()
    assert "detectron2: MODEL.BACKBONE.FREEZE_AT 0 -> MODEL.BACKBONE.FREEZE_CONV_BODY_AT 0" in log
    assert "WARNING: detectron2: VIS_PERIOD 20" in log
    assert "batch norms over 2 training batches" in log
    config = Path("out/config.yaml").read_text()
    assert "BACKBONE:\n    CONV_BODY: R-18-FPN\n" in config
    assert "PRECISE_BN:\n    ENABLED: true\n    NUM_ITER: 2\n" in config
