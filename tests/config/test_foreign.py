"""Other programs' configs: recognised, translated with every key named, overridden in their words."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest

from detframe.config import ConfigNode, get_cfg, validate
from detframe.config.expressions import compute
from detframe.data import read_catalogs
from detframe.inference.augmentation import views_of
from tests.config.foreign import PROGRAMS, names, standard_configs

NAMES = {"detectron2": "detectron2", "maskrcnn_benchmark": "maskrcnn-benchmark", "fcos": "FCOS"}


def load(path: Path, *overrides: object) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(list(overrides))
    return cfg


def d2(name: str, *overrides: object) -> ConfigNode:
    return load(standard_configs("detectron2")[name], *overrides)


def mrb(name: str, *overrides: object) -> ConfigNode:
    return load(standard_configs("maskrcnn_benchmark")[name], *overrides)


def fcos(name: str, *overrides: object) -> ConfigNode:
    return load(standard_configs("fcos")[f"fcos/{name}.yaml"], *overrides)


# ---------------------------------------------------------------- what the standard configs become
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_key_of_each_file_is_named_in_the_log(program: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "detframe")
    for name in names(program)[:6]:
        caplog.clear()
        cfg = get_cfg()
        cfg.merge_from_file(standard_configs(program)[name])
        said = "\n".join(record.message for record in caplog.records)
        foreign = cfg.__dict__["_foreign"]
        assert foreign.program.name == NAMES[program] and len(foreign.rows) > 10
        assert [key for key in foreign.rows if f"{key} " not in said] == [], name
        assert [line for _, line in cfg.translation] == [record.message for record in caplog.records]
        validate(cfg)


def test_faster_rcnn_of_detectron2():
    cfg = d2("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-50-FPN" and cfg.MODEL.NUM_CLASSES == 80
    assert cfg.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert cfg.INPUT.FORMAT == "BGR" and cfg.INPUT.PIXEL_STD == (1.0, 1.0, 1.0)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
    assert cfg.MODEL.RPN.ANCHOR_SIZES == ((32,), (64,), (128,), (256,), (512,))
    assert cfg.MODEL.RPN.POST_NMS_TOP_N_TRAIN == 1000 and cfg.MODEL.RPN.SMOOTH_L1_BETA == 0
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_ALIGNED and cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO == 0
    assert cfg.SOLVER.STEPS == (60000, 80000) and cfg.SOLVER.BASE_LR == 0.02 and cfg.SOLVER.AMP == "off"
    assert not cfg.MODEL.LEGACY_BOXES and cfg.MODEL.DEVICE == "auto" and cfg.DATALOADER.EMPTY == "drop"


def test_repeat_factor_sampling_of_detectron2():
    cfg = d2("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    assert (cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT) == (0.001, True)
    assert "LVISv1" in cfg.source("DATALOADER.REPEAT_THRESHOLD")
    assert [line for _, line in cfg.translation if "no meaning" in line and "REPEAT" in line] == []
    name = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    linear = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_SQRT", False)
    cfg = d2(name, *linear, "DATALOADER.REPEAT_THRESHOLD", 0.3)
    assert (cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT) == (0.3, False)
    # A threshold says nothing to another sampler
    assert d2(name, "DATALOADER.REPEAT_THRESHOLD", 0.3).DATALOADER.REPEAT_THRESHOLD == 0
    subset = d2(name, "DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "DATALOADER.RANDOM_SUBSET_RATIO", 0.5)
    assert subset.DATALOADER.REPEAT_THRESHOLD == 0
    warned = [line for level, line in subset.translation if level == logging.WARNING]
    assert any("RANDOM_SUBSET_RATIO 0.5" in line and "all images are trained on" in line for line in warned)
    with pytest.raises(ValueError, match=r"SAMPLER_TRAIN 'MySampler', only 'TrainingSampler' or 'RepeatFactor"):
        d2(name, "DATALOADER.SAMPLER_TRAIN", "MySampler")


def test_losses_of_detectron2():
    name = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    box = "MODEL.ROI_BOX_HEAD"
    both = (f"{box}.USE_SIGMOID_CE", True, f"{box}.USE_FED_LOSS", True, f"{box}.FED_LOSS_NUM_CLASSES", 20)
    keys = d2(name, *both, f"{box}.BBOX_REG_LOSS_TYPE", "diou").MODEL.ROI_BOX_HEAD
    assert (keys.CLS_LOSS, keys.FEDERATED_CLASSES, keys.FEDERATED_POWER) == ("federated", 20, 0.5)
    assert keys.BOX_LOSS_TYPE == "diou" and d2(name).MODEL.ROI_BOX_HEAD.CLS_LOSS == "cross_entropy"
    with pytest.raises(ValueError, match=r"USE_SIGMOID_CE True with USE_FED_LOSS False, only both or neither"):
        d2(name, f"{box}.USE_SIGMOID_CE", True)


def test_the_files_under_it_and_the_expression_in_them():
    cfg = d2("COCO-Detection/retinanet_R_50_FPN_3x.yaml")
    assert cfg.MODEL.RPN.NAME == "RetinaNet" and cfg.MODEL.ROI_HEADS.NAME == ""
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-50-FPN-RETINANET" and cfg.MODEL.FPN.P6_FROM == "C5"
    assert cfg.MODEL.RETINANET.ANCHOR_SIZES[1] == (64, 64 * 2 ** (1 / 3), 64 * 2 ** (2 / 3))
    assert cfg.SOLVER.MAX_ITER == 270000 and cfg.SOLVER.BASE_LR == 0.01
    assert "Base-RetinaNet.yaml" in cfg.source("MODEL.RETINANET.ANCHOR_SIZES")


def test_one_level_cascades_points_and_proposals_of_detectron2():
    c4 = d2("COCO-Detection/faster_rcnn_R_101_C4_3x.yaml")
    assert (c4.MODEL.BACKBONE.CONV_BODY, c4.MODEL.ROI_HEADS.NAME) == ("R-101-C4", "Res5ROIHeads")
    assert c4.MODEL.RPN.ANCHOR_SIZES == ((32, 64, 128, 256, 512),)
    dc5 = d2("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml")
    assert dc5.MODEL.BACKBONE.CONV_BODY == "R-50-DC5" and dc5.MODEL.MASK_ON and dc5.MODEL.ROI_BOX_HEAD.NUM_FC == 2
    cascade = d2("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")
    assert cascade.MODEL.ROI_HEADS.NAME == "CascadeROIHeads" and cascade.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    points = [name for name in names("detectron2") if "pointrend_rcnn_R_50_FPN_1x" in name]
    assert d2(points[0]).MODEL.ROI_MASK_HEAD.NAME == "PointRend"
    rpn = d2("COCO-Detection/rpn_R_50_FPN_1x.yaml")
    assert rpn.MODEL.ROI_HEADS.NAME == "" and rpn.TEST.EVALUATOR == "proposals"


def test_maskrcnn_benchmark_and_its_habits():
    cfg = mrb("e2e_mask_rcnn_X_101_32x8d_FPN_1x.yaml")
    assert cfg.MODEL.BACKBONE.CONV_BODY == "X-101-32x8d-FPN" and cfg.MODEL.RESNETS.NUM_GROUPS == 0
    assert cfg.MODEL.MASK_ON and cfg.MODEL.NUM_CLASSES == 80 and cfg.MODEL.ROI_MASK_HEAD.NUM_CONV == 4
    assert cfg.MODEL.LEGACY_BOXES and cfg.MODEL.RPN.ANCHOR_STYLE == "detectron" and cfg.MODEL.RPN.BOUNDARY_THRESH == 0
    assert not cfg.MODEL.ROI_BOX_HEAD.POOLER_ALIGNED and cfg.MODEL.RESNETS.NORM_EPS == 0
    assert cfg.INPUT.PIXEL_MEAN == (102.9801, 115.9465, 122.7717) and cfg.INPUT.FORMAT == "BGR"
    assert cfg.SOLVER.BIAS_LR_FACTOR == 2 and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0 and cfg.SOLVER.WEIGHT_DECAY_NORM == -1
    assert cfg.MODEL.RPN.POST_NMS_PER == "level" and cfg.MODEL.RPN.FPN_POST_NMS_TOP_N_TEST == 1000


def test_weights_of_its_catalog():
    body, whole = "e2e_faster_rcnn_R_50_FPN_1x.yaml", "caffe2/e2e_keypoint_rcnn_R_50_FPN_1x_caffe2.yaml"
    assert mrb(body).MODEL.WEIGHTS == "msra://R-50"
    assert mrb(whole).MODEL.WEIGHTS.endswith(
        "/37697547/12_2017_baselines/e2e_keypoint_rcnn_R-50-FPN_1x.yaml.08_42_54.kdzV35ao/output/train/"
        "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival/generalized_rcnn/model_final.pkl"
    )
    with pytest.raises(ValueError, match="catalog://Nowhere is not in the catalog"):
        mrb(body, "MODEL.WEIGHT", "catalog://Nowhere")
    assert fcos("fcos_bn_bs16_MNV2_FPN_1x").MODEL.WEIGHTS.partition("#")[1] == ""


def test_fcos_plain_and_improved():
    plain, improved = fcos("fcos_R_50_FPN_1x"), fcos("fcos_imprv_dcnv2_R_50_FPN_1x")
    for cfg in (plain, improved):
        assert cfg.MODEL.RPN.NAME == "FCOS" and cfg.MODEL.ROI_HEADS.NAME == "" and cfg.MODEL.FPN.P6_FROM == "P5"
        assert cfg.SOLVER.WARMUP_METHOD == "constant" and cfg.SOLVER.WARMUP_FACTOR == pytest.approx(1 / 3)
    assert plain.MODEL.FCOS.IOU_LOSS_TYPE == "iou" and improved.MODEL.FCOS.IOU_LOSS_TYPE == "giou"
    assert improved.MODEL.RESNETS.STAGE_WITH_DCN == (False, True, True, True)
    assert improved.MODEL.FCOS.USE_DCN_IN_TOWER and improved.MODEL.FCOS.CENTER_SAMPLING_RADIUS == 1.5
    scales = fcos("fcos_imprv_R_101_FPN_2x")
    assert scales.INPUT.MIN_SIZE_TRAIN == (640, 800) and scales.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
    assert fcos("fcos_syncbn_bs32_MNV2_FPN_1x").MODEL.MOBILENET.NORM == "SyncBN"


# ---------------------------------------------------------------- overrides
def test_overrides_in_the_words_of_the_program_and_in_ours():
    cfg = fcos("fcos_R_50_FPN_1x", "MODEL.WEIGHT", "mine.pth", "SOLVER.AMP", "bf16", "MODEL.FCOS.NUM_CLASSES", "4")
    assert cfg.MODEL.WEIGHTS == "mine.pth" and cfg.SOLVER.AMP == "bf16" and cfg.MODEL.NUM_CLASSES == 3
    assert cfg.source("MODEL.WEIGHTS") == "an override" and "fcos_R_50" in cfg.source("MODEL.RPN.NAME")
    cfg.merge_from_list(["MODEL.FCOS_ON", "False", "MODEL.RETINANET_ON", "True"])
    assert cfg.MODEL.RPN.NAME == "RetinaNet" and cfg.MODEL.NUM_CLASSES == 80 and cfg.MODEL.WEIGHTS == "mine.pth"


def test_an_override_is_read_as_a_literal_once():
    """A quoted number is text, here as over a config of ours."""
    cfg = fcos("fcos_R_50_FPN_1x", "OUTPUT_DIR", "'2024'")
    assert cfg.OUTPUT_DIR == "2024"


def test_what_was_set_in_our_words_stays_when_theirs_come_later():
    cfg = d2("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "MODEL.NUM_CLASSES", 3)
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", "True"])
    assert cfg.MODEL.NUM_CLASSES == 3 and cfg.SOLVER.CLIP_GRAD_VALUE == 1.0


def test_gradients_are_clipped_as_detectron2_clips_them():
    base = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    words = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 5.0)
    solver = d2(base, *words, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm").SOLVER
    assert (solver.CLIP_GRAD_NORM, solver.CLIP_GRAD_NORM_PER, solver.CLIP_GRAD_VALUE) == (5.0, "parameter", 0.0)
    solver = d2(base, *words).SOLVER
    assert (solver.CLIP_GRAD_NORM, solver.CLIP_GRAD_NORM_PER, solver.CLIP_GRAD_VALUE) == (0.0, "model", 5.0)
    for key, value in (("NORM_TYPE", 1.0), ("CLIP_TYPE", "full_model")):
        with pytest.raises(ValueError, match=f"SOLVER.CLIP_GRADIENTS.{key} "):
            d2(base, *words, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", f"SOLVER.CLIP_GRADIENTS.{key}", value)


def test_a_second_file_of_the_program_lies_over_the_first(tmp_path: Path):
    own = tmp_path / "own.yaml"
    own.write_text("MODEL: {ROI_HEADS: {NUM_CLASSES: 5}, RPN: {PRE_NMS_TOPK_TEST: 123}}\n")
    cfg = d2("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_file(own)
    assert cfg.MODEL.NUM_CLASSES == 5 and cfg.MODEL.RPN.PRE_NMS_TOP_N_TEST == 123
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-50-FPN", "the defaults do not come over it again"


def test_their_words_over_a_config_of_ours():
    cfg = load(Path("configs/fcos/fcos_R_50_FPN_1x.yaml"), "MODEL.WEIGHT", "mine.pth", "SOLVER.BASE_LR", 0.1)
    assert cfg.MODEL.WEIGHTS == "mine.pth" and cfg.SOLVER.BASE_LR == 0.1
    cfg.merge_from_list(["MODEL.FCOS_ON", "False", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.2"])
    assert cfg.MODEL.RPN.NAME == "AnchorRPN" and cfg.MODEL.ROI_HEADS.SCORE_THRESH == 0.2
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.NUM_CLASSES", 21])
    assert cfg.MODEL.NUM_CLASSES == 20
    cfg.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", 7])
    assert cfg.MODEL.NUM_CLASSES == 7
    with pytest.raises(KeyError, match=r"MODEL\.RETINANET\.NUM_CLASSES.*is a key of maskrcnn-benchmark"):
        cfg.merge_from_list(["MODEL.RETINANET.NUM_CLASSES", 7])
    with pytest.raises(KeyError, match=r"MODEL\.RESNETS\.DEPTH .*is a key of detectron2.*CONV_BODY"):
        cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 101])


def test_copies_and_pickles_still_know_the_program():
    cfg = fcos("fcos_R_50_FPN_1x")
    cfg.freeze()
    for copy in (cfg.clone(), pickle.loads(pickle.dumps(cfg))):
        copy.defrost()
        copy.merge_from_list(["MODEL.WEIGHT", "other.pth"])
        assert copy.MODEL.WEIGHTS == "other.pth" and copy.translation[: len(cfg.translation)] == cfg.translation
    assert cfg.MODEL.WEIGHTS == "msra://R-50"


def test_the_saved_config_is_ours(tmp_path: Path):
    cfg = mrb("retinanet/retinanet_R-50-FPN_1x.yaml")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load(tmp_path / "config.yaml")
    assert dict(again.leaves()) == dict(cfg.leaves()) and again.translation == ()


# ---------------------------------------------------------------- mistakes
def test_a_word_of_theirs_in_a_file_of_ours_is_a_mistake_with_a_hint(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("MODEL: {WEIGHT: x.pth, CHANNELS_LAST: False}\nSOLVER: {AMP: off}\n")
    with pytest.raises(KeyError, match=r"MODEL\.WEIGHT \(.*a\.yaml:1\).*maskrcnn-benchmark.*here is MODEL\.WEIGHTS"):
        load(path)


def test_a_key_that_nobody_knows_is_named_with_the_program(tmp_path: Path):
    path = tmp_path / "fork.yaml"
    path.write_text("MODEL:\n  WEIGHT: x\n  RPN: {USE_FPN: True}\n  MY_HEAD: {DEPTH: 3}\n")
    named = r"fork\.yaml is written for maskrcnn-benchmark(.|\n)*MODEL\.MY_HEAD\.DEPTH \(.*:4\)"
    with pytest.raises(KeyError, match=named) as caught:
        load(path)
    assert "Leave them out; keys of a module of your own belong in" in str(caught.value)


@pytest.mark.parametrize(
    ("program", "name", "reason"),
    [
        ("detectron2", "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", "PanopticFPN"),
        ("detectron2", "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", "PrecomputedProposals"),
        ("maskrcnn_benchmark", "e2e_faster_rcnn_fbnet.yaml", "FBNet"),
    ],
)
def test_what_detframe_does_not_have_is_refused_by_name(program: str, name: str, reason: str):
    refusal = f"{Path(name).name}: .* asks for what detframe does not have:\n(.|\n)*{reason}"
    with pytest.raises(ValueError, match=refusal):
        load(standard_configs(program)[name])


def test_lost_features_are_warnings_and_what_follows_from_others_is_not(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "detframe")
    d2(
        "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        "INPUT.CROP.ENABLED",
        "True",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "9",
    )
    warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1 and "INPUT.CROP.ENABLED True (an override) has no meaning in detframe" in warned[0]
    assert any("MODEL.SEM_SEG_HEAD.NUM_CLASSES 9" in record.message for record in caplog.records)


# ---------------------------------------------------------------- test-time augmentation
def views(cfg: ConfigNode) -> list[tuple[int, int, int | None]]:
    validate(cfg)
    return [(view.min_size, view.max_size, view.mirrored) for view in views_of(cfg)]


def test_views_of_detectron2():
    """DatasetMapperTTA: every size, and mirrored; the boxes of each after its own NMS."""
    name = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    assert not d2(name).TEST.AUG.ENABLED
    cfg = d2(name, "TEST.AUG.ENABLED", "True")
    sizes = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
    assert views(cfg) == [(size, 4000, axis) for size in sizes for axis in (None, -1)]
    assert cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.NMS_PER_VIEW and cfg.TEST.AUG.MERGE == "nms"
    few = d2(name, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (400, 800), "TEST.AUG.FLIP", False)
    few.merge_from_list(["TEST.AUG.MAX_SIZE", 1000, "TEST.AUG.MERGE", "wbf"])  # the last is of detframe alone
    assert views(few) == [(400, 1000, None), (800, 1000, None)] and few.TEST.AUG.MERGE == "wbf"
    none = d2(name, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", ())
    with pytest.raises(ValueError, match=r"TEST.AUG.MIN_SIZES must be one size at least"):
        validate(none)


@pytest.mark.parametrize("program", ["maskrcnn_benchmark", "fcos"])
@pytest.mark.parametrize(("flip", "scales", "flip_scales"), [
    (True, (400, 1200), True), (True, (400, 1200), False), (False, (400, 1200), True), (False, (400, 1200), False),
    (True, (), False), (True, (), True), (False, (), True), (False, (), False),
])  # fmt: skip
def test_views_of_maskrcnn_benchmark(
    program: str, flip: bool, scales: tuple[int, ...], flip_scales: bool, caplog: pytest.LogCaptureFixture
):
    """im_detect_bbox_aug: the image as in a plain test, mirrored; every scale, mirrored; one NMS for all of it."""
    caplog.set_level(logging.INFO, "detframe")
    plain = {"maskrcnn_benchmark": mrb("e2e_faster_rcnn_R_50_FPN_1x.yaml"), "fcos": fcos("fcos_R_50_FPN_1x")}[program]
    assert not plain.TEST.AUG.ENABLED
    keys = {"ENABLED": True, "H_FLIP": flip, "SCALES": scales, "MAX_SIZE": 2000, "SCALE_H_FLIP": flip_scales}
    cfg = plain.clone()
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"TEST.BBOX_AUG.{key}", value)])
    wanted = [(800, 1333, None), *([(800, 1333, -1)] if flip else [])]
    for scale in scales:
        wanted += [(scale, 2000, None), *([(scale, 2000, -1)] if flip_scales else [])]
    assert views(cfg) == wanted
    assert cfg.TEST.AUG.ENABLED and not cfg.TEST.AUG.NMS_PER_VIEW and cfg.TEST.AUG.MERGE == "nms"
    assert not any("no meaning" in record.message and "AUG" in record.message for record in caplog.records)


# ---------------------------------------------------------------- expressions in YAML
def test_expressions_are_computed_and_nothing_else():
    assert compute("[[x, x * 2**(1.0/3)] for x in [32, 64]]") == [[32, 32 * 2 ** (1 / 3)], [64, 64 * 2 ** (1 / 3)]]
    assert compute("-(1 + 2) * 3") == -9
    for text in ("__import__('os').system('true')", "open('x')", "x", "9**9**9", "[1] * 9", "(lambda: 1)()"):
        with pytest.raises(ValueError, match=r"no expression|beyond|no number"):
            compute(text)


def test_other_python_tags_are_refused(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("MODEL:\n  WEIGHTS: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS cannot be read \(.*a\.yaml:2\)"):
        load(path)


def test_the_data_sets_that_standard_configs_name_are_in_the_catalog():
    catalog = read_catalogs()
    unknown = set()
    for program in PROGRAMS:
        for name in names(program, translatable=True):
            cfg = load(standard_configs(program)[name])
            unknown |= {data for data in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if data not in catalog}
    # their annotations are of other formats
    assert {data.split("_")[0] for data in unknown} == {"lvis", "cityscapes"}
