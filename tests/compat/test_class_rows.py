"""Class outputs follow the names of the classes, in every layer that has them and from every program."""

from __future__ import annotations

import pytest
import torch

from detframe.compat import load_weights
from detframe.compat.class_rows import rows_by_name
from detframe.compat.export import to_detectron2
from detframe.data.coco_categories import COCO_CATEGORIES
from tests.compat.models import C4, RETINANET, random_model

COCO = tuple(COCO_CATEGORIES.values())
ALL_HEADS = ("MODEL.MASK_ON", True)
POINT_REND = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "PointRend")
FCOS = (*RETINANET, "MODEL.RPN.NAME", "FCOS")
SCORE, DELTA = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
MASK, DENSE = "roi_heads.mask.predictor.mask_fcn_logits", "rpn.head.classification_head.cls_logits"
OLD, NEW = ("cat", "Person", "hot_dog"), ("tree", "hot dog", "person", "house")


def of(classes, *opts):
    return random_model("MODEL.NUM_CLASSES", classes, *opts)


def checkpoint(model, names):
    return {"model": model.state_dict(), "meta": {"class_names": list(names)}}


def tuned(source, *opts, names=OLD, new=NEW):
    """A model of the new classes before and after loading, and the report."""
    model = of(len(new), *opts)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, checkpoint(source, names), class_names=new)
    return before, model.state_dict(), report


def test_box_and_mask_rows_by_name():
    source = of(3, *ALL_HEADS)
    theirs = source.state_dict()
    before, after, report = tuned(source, *ALL_HEADS)
    for ending in ("weight", "bias"):
        score, old, fresh = after[f"{SCORE}.{ending}"], theirs[f"{SCORE}.{ending}"], before[f"{SCORE}.{ending}"]
        # background, tree, hot dog, person, house from background, cat, person, hot dog
        for row, expected in enumerate((old[0], fresh[1], old[3], old[2], fresh[4])):
            assert torch.equal(score[row], expected), row
        delta, old, fresh = after[f"{DELTA}.{ending}"], theirs[f"{DELTA}.{ending}"], before[f"{DELTA}.{ending}"]
        for row, expected in enumerate((fresh[:4], old[8:12], old[4:8], fresh[12:])):
            assert torch.equal(delta[4 * row : 4 * row + 4], expected), row
        mask, old, fresh = after[f"{MASK}.{ending}"], theirs[f"{MASK}.{ending}"], before[f"{MASK}.{ending}"]
        for row, expected in enumerate((fresh[0], old[2], old[1], fresh[3])):
            assert torch.equal(mask[row], expected), row
    assert report.notes == ["class rows copied: 2 of 4 (hot dog, person); new: tree, house"]
    assert len(report.reinitialised) == 6 and all("2 of 4 classes are new" in line for line in report.reinitialised)
    assert report.notes[0] in report.table()
    total = sum(value.numel() for value in before.values() if value.is_floating_point())
    assert sum(report.counts[k] for k in ("loaded", "reinitialised", "missing")) == total
    fresh_values = 2 * (16 + 1) + 2 * 4 * (16 + 1) + 2 * (256 + 1)
    assert report.counts["reinitialised"] == fresh_values


@pytest.mark.parametrize("opts, anchors", [(RETINANET, 9), (FCOS, 1)], ids=["RetinaNet", "FCOS"])
def test_dense_rows_by_name(opts, anchors):
    source = of(3, *opts)
    before, after, report = tuned(source, *opts)
    for ending in ("weight", "bias"):
        name = f"{DENSE}.{ending}"
        ours, fresh = (state[name].unflatten(0, (anchors, 4)) for state in (after, before))
        old = source.state_dict()[name].unflatten(0, (anchors, 3))
        for column, expected in enumerate((fresh[:, 0], old[:, 2], old[:, 1], fresh[:, 3])):
            assert torch.equal(ours[:, column], expected), column
    assert len(report.reinitialised) == 2


def test_point_rend_rows_and_columns_by_name():
    source = of(3, *POINT_REND)
    before, after, _ = tuned(source, *POINT_REND)
    theirs, head = source.state_dict(), "roi_heads.mask.point_head"
    name = f"{head}.fcs.0.weight"
    lead = after[name].shape[1] - 4
    assert torch.equal(after[name][:, :lead], theirs[name][:, :lead])
    assert torch.equal(after[name][:, lead + 1], theirs[name][:, lead + 2])
    assert torch.equal(after[name][:, lead], before[name][:, lead])
    name = f"{head}.predictor.weight"
    lead = after[name].shape[1] - 4
    assert torch.equal(after[name][1, :lead], theirs[name][2, :lead])
    assert torch.equal(after[name][2, lead + 1], theirs[name][1, lead + 2])
    assert torch.equal(after[name][2, lead], before[name][2, lead])
    assert torch.equal(after[name][3], before[name][3])
    coarse = "roi_heads.mask.coarse.prediction.bias"
    cells = len(after[coarse]) // 4
    assert torch.equal(after[coarse][cells : 2 * cells], theirs[coarse][2 * cells :])
    assert torch.equal(after[coarse][:cells], before[coarse][:cells])


@pytest.mark.parametrize("opts", [(), ALL_HEADS, RETINANET, FCOS, POINT_REND, C4])
def test_another_order_of_the_same_classes(opts):
    source, model = of(3, *opts), of(3, *opts)
    there = load_weights(model, checkpoint(source, ("a", "b", "c")), class_names=("c", "a", "b"))
    assert not (there.reinitialised or there.missing) and there.notes == ["class rows copied: 3 of 3 (c, a, b)"]
    assert any(not torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    again = of(3, *opts)
    load_weights(again, checkpoint(model, ("c", "a", "b")), class_names=("a", "b", "c"))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    "opts",
    [("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"), ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)],
    ids=["cascade", "class-agnostic"],
)
def test_class_agnostic_boxes_are_loaded_as_they_are(opts):
    source = of(3, *opts)
    _, after, report = tuned(source, *opts)
    deltas = [name for name in after if ".bbox_pred." in name and name.startswith("roi_heads.")]
    assert deltas and all(torch.equal(after[name], source.state_dict()[name]) for name in deltas)
    scores = [name for name in after if ".cls_score." in name]
    assert len(report.reinitialised) == len(scores)
    assert all(torch.equal(after[name][2], source.state_dict()[name][3]) for name in scores)


def test_no_class_in_common_keeps_all_initial_values():
    source = of(2)
    before, after, report = tuned(source, names=("a", "b"), new=("c", "d"))
    for name in (f"{SCORE}.weight", f"{DELTA}.weight"):
        assert torch.equal(after[name], before[name])
    assert report.notes == ["class rows copied: 0 of 2; new: c, d"]
    assert report.counts["reinitialised"] == (3 + 2 * 4) * (16 + 1)


def test_a_name_that_occurs_twice_belongs_to_none():
    zeros = {f"{SCORE}.bias": torch.zeros(3)}
    rows = rows_by_name({f"{SCORE}.bias": torch.arange(3.0)}, zeros, ("a-b", "A B"), ("a b", "x"))
    assert rows.copied == () and rows.new == ("a b", "x")


# ------------------------------------------------------------------------- programs that name no classes
def as_detectron2(classes):
    source = of(classes)
    return source, to_detectron2(source)


def as_maskrcnn_benchmark(classes):
    source = of(classes)
    rename = {"rpn.head.conv.0.0.": "rpn.head.conv.", "roi_heads.box_head.": "roi_heads.box.feature_extractor."}
    rename |= {
        "roi_heads.box_predictor.": "roi_heads.box.predictor.",
        "backbone.body.conv1.": "backbone.body.stem.conv1.",
    }
    rename |= {"backbone.body.bn1.": "backbone.body.stem.bn1."}
    for i in range(4):
        rename[f"backbone.fpn.inner_blocks.{i}.0."] = f"backbone.fpn.fpn_inner{i + 1}."
        rename[f"backbone.fpn.layer_blocks.{i}.0."] = f"backbone.fpn.fpn_layer{i + 1}."
    out = {}
    for name, value in source.state_dict().items():
        theirs = next((b + name.removeprefix(a) for a, b in rename.items() if name.startswith(a)), name)
        out[theirs] = torch.cat([torch.rand(4, *value.shape[1:]), value]) if name.startswith(DELTA) else value
    return source, out


@pytest.mark.parametrize("program", [as_detectron2, as_maskrcnn_benchmark])
def test_eighty_classes_are_cocos(program):
    source, theirs = program(80)
    model = of(3)
    before = model.state_dict()[f"{SCORE}.bias"].clone()
    report = load_weights(model, theirs, class_names=("dog", "zeppelin", "person"))
    bias, old = model.state_dict()[f"{SCORE}.bias"], source.state_dict()[f"{SCORE}.bias"]
    assert bias.tolist() == [old[0], old[1 + COCO.index("dog")], before[2], old[1]]
    expected = "class rows copied: 2 of 3 (dog, person); new: zeppelin; the checkpoint does not name its 80 classes"
    assert report.notes[0].startswith(expected)


def test_cocos_classes_in_another_order():
    source, theirs = as_detectron2(80)
    names = tuple(sorted(COCO))
    model = of(80)
    report = load_weights(model, theirs, class_names=names)
    bias, old = model.state_dict()[f"{SCORE}.bias"], source.state_dict()[f"{SCORE}.bias"]
    assert not report.reinitialised
    assert all(bias[1 + i] == old[1 + COCO.index(name)] for i, name in enumerate(names))


def test_as_many_classes_under_other_names_are_loaded_as_they_lie():
    """Eighty classes of one's own, trained with detectron2, are not COCO's."""
    source, theirs = as_detectron2(80)
    model = of(80)
    report = load_weights(model, theirs, class_names=[f"part {i}" for i in range(79)] + ["person"])
    assert not report.reinitialised
    (note,) = report.notes
    assert "80 classes, they are taken in this order: part 0, part 1," in note and "import-weights --classes" in note
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_order_of_unnamed_classes_needs_no_word_where_there_is_one_or_none_was_named():
    _, theirs = as_detectron2(1)
    assert load_weights(of(1), theirs, class_names=("dog",)).notes == []
    _, theirs = as_detectron2(3)
    assert load_weights(of(3), theirs).notes == []


def test_another_number_of_unnamed_classes():
    _, theirs = as_detectron2(20)
    report = load_weights(of(3), theirs, class_names=("dog", "cat", "person"))
    assert len(report.reinitialised) == 4 and not report.notes
    assert all("(number of classes)" in line for line in report.reinitialised)


def test_torchvisions_classes_go_by_cocos_numbers():
    """91 labels: 0 is the background, ten have no category."""
    source = of(90, *ALL_HEADS)
    theirs = source.state_dict()
    theirs[f"{DELTA}.weight"] = torch.cat([torch.rand(4, 16), theirs[f"{DELTA}.weight"]])
    theirs[f"{DELTA}.bias"] = torch.cat([torch.rand(4), theirs[f"{DELTA}.bias"]])
    theirs = {
        name.replace("roi_heads.mask.head.", "roi_heads.mask_head.").replace(
            "mask.predictor.", "mask_predictor."
        ): value
        for name, value in theirs.items()
    }
    for ending in ("weight", "bias"):
        name = f"roi_heads.mask_predictor.mask_fcn_logits.{ending}"
        theirs[name] = torch.cat([torch.rand(1, *theirs[name].shape[1:]), theirs[name]])
    model = of(80, *ALL_HEADS)
    report = load_weights(model, theirs, class_names=COCO)
    assert report.kind == "torchvision detector" and not (report.reinitialised or report.missing or report.unused)
    old = source.state_dict()
    for label, number in enumerate(COCO_CATEGORIES, 1):
        assert model.state_dict()[f"{SCORE}.bias"][label] == old[f"{SCORE}.bias"][number]
        assert model.state_dict()[f"{DELTA}.bias"][4 * label - 1] == old[f"{DELTA}.bias"][4 * number - 1]
        assert model.state_dict()[f"{MASK}.bias"][label - 1] == old[f"{MASK}.bias"][number - 1]


@pytest.mark.parametrize("opts, anchors", [(RETINANET, 9), (FCOS, 1)], ids=["RetinaNet", "FCOS"])
@pytest.mark.parametrize("names", [COCO, ("dog", "person")])
def test_columns_of_torchvisions_dense_detectors(opts, anchors, names):
    source = of(91, *opts)
    theirs = {name.removeprefix("rpn."): value for name, value in source.state_dict().items()}
    model = of(len(names), *opts)
    report = load_weights(model, theirs, class_names=names)
    assert report.kind == "torchvision dense detector" and not report.reinitialised
    old = source.state_dict()[f"{DENSE}.bias"].reshape(anchors, 91)
    ours = model.state_dict()[f"{DENSE}.bias"].reshape(anchors, len(names))
    for column, name in enumerate(names):
        number = next(i for i, category in COCO_CATEGORIES.items() if category == name)
        assert torch.equal(ours[:, column], old[:, number])


def test_as_many_names_as_classes():
    with pytest.raises(ValueError, match="2 class names for a model of 3 classes: cat, dog"):
        load_weights(of(3), of(3).state_dict(), class_names=("cat", "dog"))
    # without heads there is nothing to name
    model = random_model("MODEL.ROI_HEADS.NAME", "")
    assert not load_weights(model, model.state_dict(), class_names=("cat",)).notes


def test_names_that_do_not_fit_their_checkpoint_are_not_used():
    report = load_weights(of(3), checkpoint(of(3), ("cat",)), class_names=OLD)
    assert not report.reinitialised and "does not name its 3 classes" in report.notes[0]
