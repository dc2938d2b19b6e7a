"""Keys that change nothing are said, with the key that turns them off; those that do are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.config import get_cfg, resolve_durations
from detframe.config.check import doubts
from detframe.config.effects import without_effect

CONFIGS = Path(__file__).parents[2] / "configs"
DENSE = ("MODEL.ROI_HEADS.NAME", "", "MODEL.RPN.NAME")
EXTENDED = ("MODEL.BACKBONE.CONV_BODY", "R-50-EFPN")
IDLE = {
    "tiles": (("INPUT.TILES.OVERLAP", 0.4), "INPUT.TILES.OVERLAP has no effect: INPUT.TILES.SIZE is 0, so that"),
    "loss of FCOS": (
        (*DENSE, "FCOS", "MODEL.RPN.BOX_LOSS_TYPE", "nwd"),
        "MODEL.RPN.BOX_LOSS_TYPE has no effect: MODEL.RPN.NAME is 'FCOS', which takes MODEL.FCOS.IOU_LOSS_TYPE",
    ),
    "NMS of RetinaNet": (
        (*DENSE, "RetinaNet", "MODEL.RPN.NMS_METRIC", "nwd"),
        "MODEL.RPN.NMS_METRIC has no effect: MODEL.RPN.NAME is 'RetinaNet', which takes TEST.NMS_METRIC",
    ),
    "no ROI heads": (
        (*DENSE, "FCOS", "MODEL.ROI_HEADS.ASSIGNER", "nwd"),
        "MODEL.ROI_HEADS.ASSIGNER has no effect: MODEL.ROI_HEADS.NAME is empty",
    ),
    "of another assigner": (
        ("MODEL.RPN.ASSIGNER", "nwd", "MODEL.RPN.ASSIGNMENT.ATSS_K", 5, "MODEL.RPN.ASSIGNMENT.FCOS_PRIOR", 4.0),
        "ASSIGNMENT.ATSS_K, MODEL.RPN.ASSIGNMENT.FCOS_PRIOR have no effect: MODEL.RPN.ASSIGNER is 'nwd'",
    ),
    "no assigner": (("MODEL.RPN.ASSIGNMENT.RFLA_K", (2, 1)), "RFLA_K has no effect: MODEL.RPN.ASSIGNER is 'iou'"),
    "constant": (("MODEL.NWD_CONSTANT", 20.0), "MODEL.NWD_CONSTANT has no effect: no loss, NMS or assigner"),
    "no extended pyramid": (
        ("MODEL.EFPN.TRANSFER", "plain", "MODEL.ROI_HEADS.NAME", "ExtendedROIHeads"),
        "MODEL.EFPN.TRANSFER, MODEL.ROI_HEADS.NAME have no effect: MODEL.BACKBONE.CONV_BODY 'R-50-FPN' is no extended",
    ),
    "no extended heads": (
        (*EXTENDED, "MODEL.EFPN.SEPARATE_HEAD", True, "MODEL.EFPN.DUPLICATE_UP_TO", 1),
        "DUPLICATE_UP_TO, MODEL.EFPN.SEPARATE_HEAD have no effect: MODEL.ROI_HEADS.NAME is not 'ExtendedROIHeads'",
    ),
    "pooled once": (
        (*EXTENDED, "MODEL.ROI_HEADS.NAME", "ExtendedROIHeads", "MODEL.EFPN.DUPLICATE_UP_TO", 1),
        "MODEL.EFPN.DUPLICATE_UP_TO has no effect: MODEL.EFPN.ROI_ASSIGNMENT is 'exclusive'",
    ),
    "no crops": ((*EXTENDED, "MODEL.EFPN.CROP_MARGIN", 8), "CROP_MARGIN has no effect: MODEL.EFPN.ON_CROPS is False"),
    "no transfer": (
        (*EXTENDED, "MODEL.EFPN.TRANSFER", "plain", "MODEL.EFPN.SKIP", False, "MODEL.EFPN.TEXTURE_BLOCKS", 1),
        "MODEL.EFPN.TEXTURE_BLOCKS, MODEL.EFPN.SKIP have no effect: MODEL.EFPN.TRANSFER is 'plain'",
    ),
    "no blocks": (
        (*EXTENDED, "MODEL.EFPN.EXTRACTOR", "pointwise", "MODEL.EFPN.CONTENT_BLOCKS", 2),
        "MODEL.EFPN.CONTENT_BLOCKS has no effect: MODEL.EFPN.EXTRACTOR is 'pointwise'",
    ),
    "nothing inside": (
        (*EXTENDED, "MODEL.EFPN.TRANSFER", "plain", "MODEL.EFPN.WIDTH", 64, "MODEL.EFPN.UPSAMPLE", "nearest"),
        "MODEL.EFPN.WIDTH, MODEL.EFPN.UPSAMPLE have no effect: MODEL.EFPN.TRANSFER is 'plain'",
    ),
    "widths of its own": (
        (*EXTENDED, "MODEL.EFPN.EXTRACTOR", "pointwise", "MODEL.EFPN.WIDTH", 64),
        "MODEL.EFPN.WIDTH has no effect: MODEL.EFPN.EXTRACTOR is 'pointwise'",
    ),
    "fields for anchors": (
        ("MODEL.RPN.ASSIGNER", "rfla", "MODEL.RPN.ANCHOR_SIZES", ((8,),), "MODEL.RPN.ASPECT_RATIOS", (1.0,)),
        "ANCHOR_SIZES, MODEL.RPN.ASPECT_RATIOS have no effect: MODEL.RPN.ASSIGNER is 'rfla', whose receptive fields",
    ),
    "fields for anchors of RetinaNet": (
        (*DENSE, "RetinaNet", "MODEL.RPN.ASSIGNER", "rfla", "MODEL.RETINANET.ANCHOR_SIZES", ((8,),)),
        "MODEL.RETINANET.ANCHOR_SIZES has no effect: MODEL.RPN.ASSIGNER is 'rfla', whose receptive fields",
    ),
    "no attention": (
        (*EXTENDED, "MODEL.EFPN.ATTENTION.HEADS", 2),
        "MODEL.EFPN.ATTENTION.HEADS has no effect: MODEL.EFPN.EXTRACTOR is 'residual'",
    ),
    "thresholds of ranked anchors": (
        ("MODEL.RPN.ASSIGNER", "nwd", "MODEL.RPN.BG_IOU_THRESHOLD", 0.2, "MODEL.RETINANET.FG_IOU_THRESHOLD", 0.6),
        "MODEL.RPN.BG_IOU_THRESHOLD has no effect: MODEL.RPN.ASSIGNER is 'nwd', which ranks anchors",
    ),
    "thresholds of RetinaNet": (
        (*DENSE, "RetinaNet", "MODEL.RPN.ASSIGNER", "rfla", "MODEL.RETINANET.FG_IOU_THRESHOLD", 0.6),
        "MODEL.RETINANET.FG_IOU_THRESHOLD has no effect: MODEL.RPN.ASSIGNER is 'rfla', which ranks anchors",
    ),
    "places of FCOS": (
        (*DENSE, "FCOS", "MODEL.RPN.ASSIGNER", "rfla", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5),
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS has no effect: MODEL.RPN.ASSIGNER is 'rfla', which ranks locations",
    ),
    "of another loss": (
        ("MODEL.ROI_BOX_HEAD.SEESAW_P", 0.5, "MODEL.ROI_BOX_HEAD.CLS_LOSS", "federated", "MODEL.LABEL_SMOOTHING", 0.1),
        "LABEL_SMOOTHING, MODEL.ROI_BOX_HEAD.SEESAW_P have no effect: MODEL.ROI_BOX_HEAD.CLS_LOSS is 'federated'",
    ),
    "weights of the RPN": (
        ("MODEL.ROI_HEADS.NAME", "", "MODEL.CLASS_WEIGHTS", "auto"),
        "MODEL.CLASS_WEIGHTS has no effect: the RPN alone knows of no classes",
    ),
    "no clipping": (
        ("SOLVER.CLIP_GRAD_NORM_PER", "parameter", "SOLVER.CLIP_GRAD_VALUE", 1.0),
        "SOLVER.CLIP_GRAD_NORM_PER has no effect: SOLVER.CLIP_GRAD_NORM is 0",
    ),
    "no early stop": (
        ("SOLVER.EARLY_STOP_MIN_DELTA", 0.5),
        "SOLVER.EARLY_STOP_MIN_DELTA has no effect: SOLVER.EARLY_STOP_PATIENCE is 0",
    ),
    "of AdamW": (("SOLVER.BETAS", (0.9, 0.99)), "SOLVER.BETAS has no effect: SOLVER.OPTIMIZER is 'SGD'"),
    "of SGD": (
        ("SOLVER.OPTIMIZER", "AdamW", "SOLVER.MOMENTUM", 0.8, "SOLVER.NESTEROV", True),
        "SOLVER.MOMENTUM, SOLVER.NESTEROV have no effect: SOLVER.OPTIMIZER is 'AdamW'",
    ),
    "keys of ResNets": (
        ("MODEL.BACKBONE.CONV_BODY", "MNV2-FPN", "MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.NUM_GROUPS", 2),
        "NORM, MODEL.RESNETS.NUM_GROUPS have no effect: MODEL.BACKBONE.CONV_BODY 'MNV2-FPN' reads MODEL.MOBILENET.*",
    ),
    "keys of MobileNetV2": (
        ("MODEL.MOBILENET.NORM", "FrozenBN"),
        "MODEL.MOBILENET.NORM has no effect: MODEL.BACKBONE.CONV_BODY 'R-50-FPN' reads MODEL.RESNETS.*",
    ),
    "keys of either in timm": (
        (
            "MODEL.BACKBONE.CONV_BODY",
            "timm/resnet18-FPN",
            "MODEL.MOBILENET.NORM",
            "FrozenBN",
            "MODEL.RESNETS.NORM",
            "BN",
        ),
        "NORM, MODEL.MOBILENET.NORM have no effect: MODEL.BACKBONE.CONV_BODY 'timm/resnet18-FPN' has no such keys",
    ),
    "no distillation": (("MODEL.DISTILL.DETECTION", True), "DETECTION has no effect: MODEL.DISTILL.ON is False"),
}
ACTIVE = {
    "tiles": ("INPUT.TILES.SIZE", 64, "INPUT.TILES.OVERLAP", 0.4),
    "loss of the RPN": ("MODEL.RPN.BOX_LOSS_TYPE", "nwd", "MODEL.NWD_CONSTANT", 20.0),
    "prior of FCOS": (*DENSE, "FCOS", "MODEL.RPN.ASSIGNER", "atss", "MODEL.RPN.ASSIGNMENT.FCOS_PRIOR", 4.0),
    "rfla": ("MODEL.RPN.ASSIGNER", "rfla", "MODEL.RPN.ASSIGNMENT.RFLA_K", (2, 1)),
    "extended": ("MODEL.BACKBONE.CONV_BODY", "timm/resnet18-EFPN", "MODEL.EFPN.TRANSFER", "plain"),
    "norms of ResNets": ("MODEL.BACKBONE.CONV_BODY", "X-50-32x4d-PAFPN", "MODEL.RESNETS.NORM", "BN"),
    "norms of MobileNetV2": ("MODEL.BACKBONE.CONV_BODY", "MNV2-EFPN", "MODEL.MOBILENET.NORM", "FrozenBN"),
    "norms of a body of one's own": ("MODEL.BACKBONE.CONV_BODY", "mine", "MODEL.MOBILENET.NORM", "FrozenBN"),
    "duplicate": (
        *(*EXTENDED, "MODEL.ROI_HEADS.NAME", "ExtendedROIHeads", "MODEL.EFPN.SEPARATE_HEAD", True),
        *("MODEL.EFPN.ROI_ASSIGNMENT", "duplicate", "MODEL.EFPN.DUPLICATE_UP_TO", 1),
    ),
    "attention": (*EXTENDED, "MODEL.EFPN.EXTRACTOR", "hat", "MODEL.EFPN.ATTENTION.HAT_DEPTH", 1),
    "shifted windows": (*EXTENDED, "MODEL.EFPN.EXTRACTOR", "swin", "MODEL.EFPN.ATTENTION.WINDOW", 4),
    "blocks": (*EXTENDED, "MODEL.EFPN.TEXTURE_BLOCKS", 1, "MODEL.EFPN.SKIP", False),
    "thresholds": ("MODEL.RPN.BG_IOU_THRESHOLD", 0.2),
    "places": (*DENSE, "FCOS", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5),
    "a body of one's own": ("CUSTOM_IMPORTS", ("own.py",), "MODEL.EFPN.WIDTH", 64, "MODEL.BACKBONE.CONV_BODY", "OWN"),
    "smoothing": ("MODEL.LABEL_SMOOTHING", 0.1, "MODEL.CLASS_WEIGHTS", "{car: 2}"),
    "weights of FCOS": (*DENSE, "FCOS", "MODEL.CLASS_WEIGHTS", "auto"),
    "distillation": ("MODEL.DISTILL.ON", True, "MODEL.DISTILL.DETECTION", True),
    "clipping": ("SOLVER.CLIP_GRAD_NORM_PER", "parameter", "SOLVER.CLIP_GRAD_NORM", 1.0),
    "an optimizer of one's own": (
        "CUSTOM_IMPORTS",
        ("own.py",),
        "SOLVER.OPTIMIZER",
        "Own",
        "SOLVER.BETAS",
        (0.9, 0.99),
    ),
    "set as by default": ("INPUT.TILES.OVERLAP", 0.2),
}


def config(overrides):
    cfg = get_cfg()
    cfg.merge_from_list(list(overrides))
    return cfg


@pytest.mark.parametrize(("overrides", "message"), IDLE.values(), ids=IDLE)
def test_keys_that_change_nothing_are_said_with_the_key_that_turns_them_off(overrides, message):
    cfg = config(overrides)
    (said,) = without_effect(cfg)
    assert message in said
    assert said in doubts(cfg)


@pytest.mark.parametrize("overrides", ACTIVE.values(), ids=ACTIVE)
def test_nothing_is_said_of_keys_that_do_something(overrides):
    assert list(without_effect(config(overrides))) == []


@pytest.mark.parametrize("folder", [path.name for path in sorted(CONFIGS.iterdir()) if path.is_dir()])
def test_every_shipped_config_does_what_it_says(folder):
    for path in sorted((CONFIGS / folder).rglob("*.yaml")):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        assert list(without_effect(cfg)) == [], path
        assert list(without_effect(resolve_durations(cfg, num_images=123))) == [], path  # as a run's log says it


def test_a_default_stays_one_when_durations_are_resolved():
    """Else a run is warned of a key that nobody has set, as of a default in epochs."""
    resolved = resolve_durations(get_cfg(), num_images=123)
    assert [key for key, statement, value in resolved.statements() if value != statement.default] == []


def test_a_config_laid_over_another_is_not_told_of_what_that_one_is_for(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL:\n  RPN:\n    ANCHOR_SIZES: [[8], [16], [32], [64], [128]]\n")
    (tmp_path / "fields.yaml").write_text("_BASE_: base.yaml\nMODEL:\n  RPN:\n    ASSIGNER: rfla\n")
    (tmp_path / "wrong.yaml").write_text("_BASE_: fields.yaml\nMODEL:\n  RPN:\n    ANCHOR_SIZES: [[8]]\n")
    assert list(without_effect(_of_file(tmp_path / "fields.yaml"))) == []
    assert list(without_effect(_of_file(tmp_path / "base.yaml", "MODEL.RPN.ASSIGNER", "rfla"))) == []
    for cfg in (_of_file(tmp_path / "wrong.yaml"), _of_file(tmp_path / "fields.yaml", "MODEL.RPN.ANCHOR_SIZES", [[8]])):
        assert [line.split()[0] for line in without_effect(cfg)] == ["MODEL.RPN.ANCHOR_SIZES"]


def _of_file(path, *overrides):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(overrides)
    return cfg
