"""INPUT.TRANSFORMS: what may stand there, what it says when something may not, and what a training gets from it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from detframe.config import ConfigNode, get_cfg, resolve_durations
from detframe.config.check import validate
from detframe.config.effects import without_effect
from detframe.data import build_train_loader
from detframe.data.transforms import build_train_transforms
from detframe.engine.transform_trial import transform_lines
from detframe.errors import UserError
from detframe.registry import TRANSFORMS
from tests.data.sets import annotation, coco_records


def config(*entries: Any, **keys: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0, "SEED", 3, "INPUT.MIN_SIZE_TRAIN", 40])
    cfg.merge_from_list(["INPUT.TRANSFORMS", list(entries)])
    cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
    return cfg


def data(folder: Path, images: int = 6) -> Any:
    square = [[5, 5, 25, 5, 25, 25, 5, 25]]
    rows = [annotation(i, i, [5, 5, 20, 20], segmentation=square) for i in range(1, images + 1)]
    return coco_records(folder, rows, [(40, 60)] * images)


# ---------------------------------------------------------------------------------------------- what may stand there
WRITTEN = """\
INPUT:
  TRANSFORMS:
    - Resize
    - Mosaic: {p: 0.5, scale: [0.5, 1]}
    - v2.GaussianBlur:
        kernel_size: 3
    - MixUp: {p: 1e-1, close: false}
  CLOSE_AT: 0.85
SOLVER: {MAX_ITER: 12ep, IMS_PER_BATCH: 10}
"""


def test_a_list_of_yaml_survives_dumping_and_overrides() -> None:
    cfg = get_cfg()
    cfg.merge_from_text(WRITTEN, "a.yaml")
    validate(cfg)
    expected = (
        "Resize",
        {"Mosaic": {"p": 0.5, "scale": (0.5, 1)}},
        {"v2.GaussianBlur": {"kernel_size": 3}},
        {"MixUp": {"p": 0.1, "close": False}},
    )
    assert cfg.INPUT.TRANSFORMS == expected
    again = get_cfg()
    again.merge_from_text(cfg.dump(), "dumped")
    assert again.INPUT.TRANSFORMS == expected and again.INPUT.CLOSE_AT == 0.85
    again.merge_from_list(["INPUT.TRANSFORMS", "[Mosaic, {MixUp: {p: 0.5}}]"])
    assert again.INPUT.TRANSFORMS == ("Mosaic", {"MixUp": {"p": 0.5}})
    again.merge_from_list(["INPUT.TRANSFORMS", "Mosaic,HorizontalFlip"])
    assert again.INPUT.TRANSFORMS == ("Mosaic", "HorizontalFlip")


@pytest.mark.parametrize(
    ("value", "expected"), [(0.85, 1020), (1.0, 1200), ("1.0", 1200), (1, 1), ("10ep", 1000), (700, 700), (0, 0)]
)
def test_close_at_is_a_share_or_a_duration(value: Any, expected: int) -> None:
    cfg = config("Mosaic", INPUT__CLOSE_AT=value, SOLVER__MAX_ITER="12ep", SOLVER__IMS_PER_BATCH=10)
    assert resolve_durations(cfg, 1000).INPUT.CLOSE_AT == expected


@pytest.mark.parametrize("value", ["1.5", "-1", "later", "10 epochs"])
def test_close_at_is_nothing_else(value: str) -> None:
    with pytest.raises(ValueError, match=r"INPUT.CLOSE_AT must (be a share|not be negative)"):
        validate(config("Mosaic", INPUT__CLOSE_AT=value))


def test_arguments_beside_a_name_are_told_from_those_below_it() -> None:
    with pytest.raises(ValueError, match=r"not the 2 keys Mosaic, p \(the arguments stand further in.*a.yaml:2"):
        get_cfg().merge_from_text("INPUT:\n  TRANSFORMS:\n  - Mosaic:\n    p: 0.5\n", "a.yaml")


def test_a_mapping_in_place_of_a_list_is_named() -> None:
    with pytest.raises(KeyError, match=r"INPUT.TRANSFORMS has a value, and no key INPUT.TRANSFORMS.Mosaic.p below it"):
        get_cfg().merge_from_text("INPUT:\n  TRANSFORMS:\n    Mosaic:\n      p: 0.5\n", "a.yaml")


def test_what_can_do_nothing_is_no_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        pass

    monkeypatch.setattr(TRANSFORMS, "_members", {**TRANSFORMS._members, "Idle": Idle})
    with pytest.raises(ValueError, match="entry 1: Idle: Idle must have __call__"):
        build_train_transforms(config("Idle"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("Mosiac", r"entry 1: Mosiac is not there; did you mean 'Mosaic'\?"),
        ("mosaic", r"entry 1: mosaic is not there; did you mean 'Mosaic'\?"),
        ("RandomHorizontalFlip", r"RandomHorizontalFlip is not there; did you mean 'v2.RandomHorizontalFlip'\?"),
        ("transforms.RandomIoUCrop", r"did you mean 'v2.RandomIoUCrop'\?"),
        ({"Mosaic": {"scal": 1}}, "Mosaic has no argument 'scal'; did you mean 'scale'"),
        ({"Mosaic": {"scale": 5}}, "scale must be a list of 2 numbers, not 5"),
        ({"Mosaic": {"scale": [1, 0.5]}}, "two numbers that do not fall"),
        ({"Mosaic": {"p": 2}}, "p must be a probability between 0 and 1, not 2"),
        ({"Mosaic": {"close": "late"}}, "close must be True or False"),
        ({"GaussianBlur": {"sigma": True}}, "sigma must be a list of 2 numbers"),
        ({"RandomCropWithObjects": {"keep": "some"}}, "keep must be one of 'one', 'all', not 'some'"),
        ({"Resize": {"min_sizes": [-1]}}, "a size must lie between 0 and 32768"),
        ({"Resize": {"min_sizes": [4, 2], "sampling": "range"}}, "two rising ones"),
        ("v2.RandomHorizontalFlop", "did you mean 'RandomHorizontalFlip'"),
        ("v2.Cutmix", r"no transform of torchvision\.transforms\.v2; (?!.*'CutMix')"),
        ({"v2.ColorJitter": {"bright": 1}}, "no argument 'bright'; did you mean 'brightness'"),
        ({"v2.ColorJitter": {"brightness": "a"}}, "v2.ColorJitter.*should be a single number"),
        ("v2.RandomCrop", "needs the argument 'size'"),
        ("v2.Normalize", "does not belong into this list: the model does it"),
        ({"v2.Grayscale": {"p": 0.1}}, "it leaves one channel, .* give it num_output_channels: 3"),
        ("v2.RandAugment", "moves the image and not its boxes"),
        ("v2.RandomApply", "name those one by one"),
        ("v2.MixUp", "the entry MixUp mixes objects"),
    ],
    ids=str,
)
def test_what_may_not_stand_there_is_named(entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_train_transforms(config(entry))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("albumentations.Afine", "did you mean 'Affine'"),
        ({"albumentations.Affine": {"rot": 3}}, "no argument 'rot'; did you mean 'rotate'"),
        ({"albumentations.Affine": {"scale": "a"}}, "albumentations.Affine.*scale"),
        ({"albumentations.RandomCrop": {"height": -1, "width": 2}}, "height: [^\\n]* greater than or equal to 1$"),
        ("albumentations.Lambda", "does not belong into this list: it is made of functions"),
        ("albumentations.OneOf", "name those one by one"),
        ("albumentations.Mosaic", "does not belong into this list: it needs mosaic_metadata"),
        ("albumentations.Pad3D", "it is for volumes"),  # else it would move keypoints alone
        ("albumentations.Normalize", "does not belong into this list: the model does it"),
        ("albumentations.DualTransform", "is no transform of Albumentations; did you mean"),
    ],
    ids=str,
)
def test_what_albumentations_does_not_have_is_named(entry: Any, message: str) -> None:
    pytest.importorskip("albumentations")
    with pytest.raises(UserError, match=message):
        build_train_transforms(config(entry))


def test_a_transform_that_fails_says_on_which_image(tmp_path: Path) -> None:
    loader = build_train_loader(config({"v2.RandomCrop": {"size": 4000}}), data(tmp_path))
    with pytest.raises(ValueError, match=r"v2.RandomCrop, on image \d of \(3, 40, 60\).*ValueError.*4000"):
        next(loader)


def test_mixup_and_masks_do_not_go_together() -> None:
    build_train_transforms(config("MixUp"))
    with pytest.raises(ValueError, match=r"MixUp blends two images.*MODEL.MASK_ON"):
        build_train_transforms(config("MixUp", MODEL__MASK_ON=True))


def test_copy_paste_needs_masks(tmp_path: Path) -> None:
    records = coco_records(tmp_path, [annotation(1, 1, [5, 5, 20, 20])], [(40, 60)])
    with pytest.raises(ValueError, match=r"INPUT.TRANSFORMS has CopyPaste, which cuts objects out along their masks"):
        build_train_loader(config("CopyPaste"), records)


def test_colours_are_changed_of_rgb_alone() -> None:
    build_train_transforms(config("GaussianBlur", INPUT__CHANNELS=5))
    with pytest.raises(ValueError, match="JPEGNoise changes the colours of 8-bit RGB alone"):
        build_train_transforms(config("GaussianBlur", "JPEGNoise", INPUT__CHANNELS=5))


def test_pixels_of_8_bits_are_filled_with_what_they_can_hold() -> None:
    for name in ("Mosaic", "MixUp", "RandomAffine", "CutOut"):
        with pytest.raises(ValueError, match=rf"INPUT.TRANSFORMS: {name}: fill must lie between 0 and 255.*not 300"):
            build_train_transforms(config({name: {"fill": 300}}))
        build_train_transforms(config({name: {"fill": 300}}, INPUT__CHANNELS=4))
    with pytest.raises(ValueError, match="fill must lie between 0 and 255, as images have 8 bits, not -1"):
        build_train_transforms(config({"Mosaic": {"fill": -1}}))


def test_unknown_names_are_answered_in_whole_sentences() -> None:
    with pytest.raises(KeyError, match=r"Resize, VerticalFlip\. Those of torchvision"):
        build_train_transforms(config("xyz"))
    with pytest.raises(KeyError, match=r"did you mean 'Mosaic'\? Those of torchvision"):
        build_train_transforms(config("Mosiac"))


def test_the_log_says_when_nothing_is_closed_before_the_end(tmp_path: Path) -> None:
    for name, close_at, said in [
        ("Mosaic", 9, "none is left out: INPUT.CLOSE_AT is iteration 9, and the training ends at 8"),
        ("Mosaic", 8, "none is left out: INPUT.CLOSE_AT is iteration 8, and the training ends at 8"),
        ("Mosaic", 7, "are left out from iteration 7 on"),
        ("CutOut", 8, "none is left out: INPUT.CLOSE_AT is iteration 8, and no entry has close=True"),
    ]:
        cfg = config(name, SOLVER__MAX_ITER=8, INPUT__CLOSE_AT=close_at)
        assert said in transform_lines(cfg, data(tmp_path))


def test_keys_beside_a_list_have_no_effect_and_are_named() -> None:
    cfg = config("Resize", INPUT__FLIP_PROB=0.1, INPUT__COPY_PASTE_PROB=0.5)
    assert any("INPUT.FLIP_PROB, INPUT.COPY_PASTE_PROB have no effect" in line for line in without_effect(cfg))
    cfg.merge_from_list(["INPUT.TRANSFORMS", [], "INPUT.CLOSE_AT", 0.9])
    assert any("INPUT.CLOSE_AT has no effect: INPUT.TRANSFORMS is empty" in line for line in without_effect(cfg))


# ---------------------------------------------------------------------------------------------- what it makes of images
def test_resizing_comes_first_where_no_entry_resizes() -> None:
    names = [line.partition("(")[0] for line in build_train_transforms(config("HorizontalFlip")).lines()]
    assert names == ["Resize", "HorizontalFlip"]
    for resizing in ("Resize", "LargeScaleJitter", {"v2.RandomShortestSize": {"min_size": 50}}):
        assert len(build_train_transforms(config("HorizontalFlip", resizing)).lines()) == 2


def test_the_log_names_every_argument_and_what_was_tried(tmp_path: Path) -> None:
    cfg = config("Resize", {"Mosaic": {"p": 0.5}}, INPUT__CLOSE_AT=90)
    assert transform_lines(cfg, data(tmp_path)).splitlines() == [
        "training images (INPUT.TRANSFORMS):",
        "  1. Resize(min_sizes=[40], max_size=1333, sampling=choice, p=1, close=False)",
        "  2. Mosaic(size=0, scale=[0.4, 1], centre=[0.3, 0.7], min_visible=0.1, fill=114, p=0.5, close=True)",
        "  those with close=True are left out from iteration 90 on",
        transform_lines(cfg, data(tmp_path)).splitlines()[-1],
    ]
    assert "tried on 8 images with 8 objects: " in transform_lines(cfg, data(tmp_path))
    lines = transform_lines(config(), data(tmp_path)).splitlines()
    assert lines[:2] == ["training images (INPUT):", "  1. Resize(min_sizes=[40], max_size=1333, sampling=choice)"]
    pasting = transform_lines(config(INPUT__COPY_PASTE_PROB=0.25), data(tmp_path)).splitlines()
    assert pasting[-1] == "  3. copy-paste of some objects of another image (COPY_PASTE_PROB=0.25)"


@pytest.mark.parametrize("keys", [{}, {"INPUT__TRANSFORMS": ["Resize", {"CopyPaste": {"p": 1}}, "CutOut"]}])
def test_the_last_step_that_is_shown_is_what_is_trained_on(tmp_path: Path, keys: dict[str, Any]) -> None:
    dataset = build_train_loader(config(INPUT__COPY_PASTE_PROB=1.0, **keys), data(tmp_path)).dataset
    stages, sample = list(dataset.stages(0)), dataset[dataset.sampler.draw(0)]
    assert any("paste" in stage.name.lower() for stage in stages)
    assert sample.image is not None and torch.equal(sample.image, stages[-1].image)
    assert torch.equal(sample.target["boxes"], stages[-1].target["boxes"])


def test_a_list_that_removes_every_object_is_refused(tmp_path: Path) -> None:
    cfg = config({"v2.RandomCrop": {"size": 2}}, INPUT__MIN_VISIBLE=0.9)
    with pytest.raises(ValueError, match=r"removes every object: none is left of the 8 .* went in v2.RandomCrop"):
        transform_lines(cfg, data(tmp_path))


MIXED = ({"Mosaic": {"p": 0.7}}, "RandomAffine", {"MixUp": {"p": 0.5}}, "v2.RandomHorizontalFlip", "CutOut")


def batches(cfg: ConfigNode, records: Any, count: int, **how: Any) -> list[Any]:
    loader = build_train_loader(cfg, records, **how)
    try:
        return [(images, [target["boxes"] for target in targets]) for images, targets in islice(loader, count)]
    finally:
        loader.close()


def same(first: list[Any], second: list[Any]) -> bool:
    flat = [[t for images, boxes in some for t in (*images, *boxes)] for some in (first, second)]
    return len(flat[0]) == len(flat[1]) and all(torch.equal(a, b) for a, b in zip(*flat, strict=True))


def test_workers_ranks_and_resuming_change_nothing(tmp_path: Path) -> None:
    records, cfg = data(tmp_path), config(*MIXED)
    whole = batches(cfg, records, 6)
    assert same(batches(config(*MIXED, DATALOADER__NUM_WORKERS=2), records, 6), whole)
    assert same(batches(cfg, records, 3, start_iteration=3), whole[3:])
    ranks = [batches(cfg, records, 6, rank=rank, world_size=2) for rank in (0, 1)]
    joined = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(*ranks, strict=True)]
    assert same(joined, whole)
    assert not same(batches(config(*MIXED, SEED=4), records, 6), whole)


def test_close_at_leaves_out_what_mixes_and_nothing_else(tmp_path: Path) -> None:
    records = data(tmp_path)
    always, closing = batches(config(*MIXED), records, 6), batches(config(*MIXED, INPUT__CLOSE_AT=3), records, 6)
    assert same(closing[:3], always[:3]) and not same(closing[3:], always[3:])
    without = [entry for entry in MIXED if not isinstance(entry, dict)]
    # entries keep the randomness of their places, so that a placeholder stands for those that are gone
    nothing = {"CutOut": {"p": 0.0}}
    alone = config(nothing, without[0], nothing, *without[1:])
    assert same(batches(alone, records, 6)[3:], closing[3:])
    assert same(batches(config(*MIXED, INPUT__CLOSE_AT=3), records, 2, start_iteration=4), closing[4:])


def test_a_partner_that_cannot_be_read_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    records = data(tmp_path, 3)
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    loader = build_train_loader(config("Mosaic", DATALOADER__ON_ERROR="skip"), records)
    for images, targets in islice(loader, 6):
        assert len(images) == 4 and all(len(target["labels"]) for target in targets)
    assert loader.skipped > 6  # of those that were drawn to be mixed too
    with pytest.raises(ValueError, match=r"2\.png"):
        batches(config("Mosaic"), records, 6)


def test_partners_of_tiles_show_objects(tmp_path: Path) -> None:
    cfg = config({"Mosaic": {"scale": [1, 1], "min_visible": 0}}, INPUT__TILES__SIZE=30, INPUT__TILES__MAX_EMPTY=0.9)
    dataset = build_train_loader(cfg, data(tmp_path)).dataset
    assert dataset.sources is not None and (dataset.records.num_objects[dataset.sources] > 0).all()
    assert len(dataset.sources) < len(dataset.records)


def test_small_decoding_goes_on_where_a_resizing_stands_first() -> None:
    assert build_train_transforms(config("HorizontalFlip")).wanted is not None  # Resize is put first
    assert build_train_transforms(config("Resize", "Mosaic")).wanted is not None
    assert build_train_transforms(config("Mosaic", "Resize")).wanted is None
    assert build_train_transforms(config({"Resize": {"p": 0.5}})).wanted is None


# ---------------------------------------------------------------------------------------------- sizes
def sizes(*entries: Any, keys: Any = ()) -> tuple[set[tuple[int, int]], set[tuple[int, int]], tuple[int, int]]:
    """Sizes that come out, those foretold, and the largest foretold."""
    from tests.data.test_transform_moves import others, painted

    pipeline = build_train_transforms(config(*entries, **dict(keys)))
    out, foretold = set(), set()
    for seed in range(30):
        image, _ = pipeline(*painted(), Generator().manual_seed(seed), None, others)
        out.add((image.shape[-2], image.shape[-1]))
        foretold.add(pipeline.size_after((72, 96), Generator().manual_seed(seed)))
    return out, foretold, pipeline.largest_after((72, 96))


@pytest.mark.parametrize(
    "entries",
    [
        ({"Resize": {"min_sizes": [30, 40, 90]}}, "RandomAffine", "v2.RandomHorizontalFlip"),
        ({"Resize": {"min_sizes": [30, 60], "p": 0.5}}, {"Mosaic": {"size": 64, "p": 0.5}}),
        ("LargeScaleJitter", "CutOut", "MixUp"),
    ],
    ids=str,
)
def test_sizes_are_known_ahead(entries: Any) -> None:
    out, foretold, largest = sizes(*entries, keys={"INPUT__LSJ__SIZE": 80}.items())
    assert out == foretold
    assert max(h for h, _ in out) <= largest[0] and max(w for _, w in out) <= largest[1]


def test_cut_sizes_are_bounded() -> None:
    out, foretold, largest = sizes("Resize", "RandomCropWithObjects")
    assert len(out) > 5 and foretold == {largest} == {(40, 53)}
    assert all(h <= 40 and w <= 53 for h, w in out)


def test_buckets_need_known_sizes() -> None:
    pipeline = build_train_transforms(config({"v2.RandomResizedCrop": {"size": 64}}))
    with pytest.raises(ValueError, match=r"INPUT.BUCKETS needs to know the largest size.*v2.RandomResizedCrop"):
        pipeline.largest_after((40, 60))


# ---------------------------------------------------------------------------------------------- one's own
def test_a_function_can_be_a_transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def negative(image: Any, target: Any, generator: Generator) -> Any:
        return 255 - image, target

    monkeypatch.setattr(TRANSFORMS, "_members", {**TRANSFORMS._members, "Negative": negative})
    plain, turned = (batches(config("Resize", *more), data(tmp_path), 1)[0][0] for more in ((), ("Negative",)))
    assert np.array_equal(255 - plain[0].numpy(), turned[0].numpy())
    with pytest.raises(ValueError, match="Negative has no argument 'strength'"):
        build_train_transforms(config({"Negative": {"strength": 1}}))
