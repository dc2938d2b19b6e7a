"""Pictures: deterministic, of the right size, drawn where the objects are, input untouched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from detframe.structures import BoxMasks, LazyMasks
from detframe.visualization import (
    class_colour,
    contact_sheet,
    draw_instances,
    side_by_side,
    training_image,
    with_caption,
)

NAMES = ["circle", "square"]


def grey(height=600, width=800):
    return np.full((height, width, 3), 90, dtype=np.uint8)


def one_box(box=(200.0, 150.0, 400.0, 350.0), label=1, **more):
    return {"boxes": torch.tensor([box]), "labels": torch.tensor([label]), **more}


def changed(picture, image):
    return (picture != image).any(axis=2)


def test_draws_the_box_and_its_label_and_nothing_else():
    image = grey()
    where = changed(draw_instances(image, one_box(), NAMES), image)
    for edge in (where[250, 195:206], where[250, 395:406], where[145:156, 300], where[345:356, 300]):
        assert edge.any()
    assert not where[160:340, 210:390].any()  # inside
    assert where[140:148, 202:240].mean() > 0.9  # the label above the box
    assert not where[:, 420:].any() and not where[370:].any() and not where[:100].any()


def test_deterministic_and_input_untouched():
    image = grey()
    target = one_box(masks=torch.ones(1, 600, 800), keypoints=torch.full((1, 3, 3), 2.0))
    before = {key: value.clone() for key, value in target.items()}
    first, second = draw_instances(image, target, NAMES), draw_instances(image, target, NAMES)
    assert np.array_equal(first, second) and not np.array_equal(first, image)
    assert np.array_equal(image, grey())
    assert all(torch.equal(target[key], before[key]) for key in target)


def test_arrays_and_tensors_agree():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (300, 600, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = draw_instances(image, one_box(), NAMES)
    assert expected.dtype == np.uint8 and expected.shape == image.shape
    assert np.array_equal(draw_instances(tensor, one_box(), NAMES), expected)
    assert np.array_equal(draw_instances(tensor.float() / 255, one_box(), NAMES), expected)


@pytest.mark.parametrize(("size", "zoom"), [((30, 40), 14), ((240, 320), 2), ((600, 800), 1)])
def test_small_images_are_enlarged_by_a_whole_factor(size, zoom):
    picture = draw_instances(grey(*size), one_box((5.0, 5.0, 20.0, 20.0)), NAMES)
    assert picture.shape == (size[0] * zoom, size[1] * zoom, 3)
    where = changed(picture, grey(size[0] * zoom, size[1] * zoom))
    assert where[12 * zoom, 5 * zoom - 2 : 5 * zoom + 3].any() and where[12 * zoom, 20 * zoom - 2 : 20 * zoom + 3].any()


def test_score_threshold():
    prediction = one_box(scores=torch.tensor([0.4]))
    assert changed(draw_instances(grey(), prediction, NAMES, score_threshold=0.4 - 1e-6), grey()).any()
    assert not changed(draw_instances(grey(), prediction, NAMES, score_threshold=0.5), grey()).any()


def test_nothing_to_draw():
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 1, 600, 800),
        "keypoints": torch.zeros(0, 5, 3),
        "iscrowd": torch.zeros(0, dtype=torch.bool),
    }
    assert np.array_equal(draw_instances(grey(), empty, NAMES), grey())
    assert side_by_side(grey(), empty, empty, NAMES).ndim == 3


@pytest.mark.parametrize("kind", ["probabilities", "boolean", "lazy", "on boxes"])
def test_masks_are_half_transparent(kind):
    image = grey()
    masks = torch.zeros(1, 1, 600, 800)
    masks[..., 200:300, 250:350] = 0.9
    polygon = [[250, 200, 350, 200, 350, 300, 250, 300]]
    masks = {
        "probabilities": masks,
        "boolean": masks[:, 0] > 0.5,
        "lazy": LazyMasks([polygon], (600, 800)),
        "on boxes": BoxMasks(torch.ones(1, 28, 28), torch.tensor([[250.0, 200, 350, 300]]), (600, 800)),
    }[kind]
    picture = draw_instances(image, one_box(masks=masks), NAMES)
    where = changed(picture, image)
    assert where[205:295, 255:345].all() and not where[310:340, 220:390].any()
    inside, colour = picture[250, 300].astype(int), np.array(class_colour(1))
    assert np.array_equal(inside, np.round(90 * 0.6 + colour * 0.4).astype(int))


def test_masks_on_enlarged_images():
    masks = torch.zeros(1, 30, 40)
    masks[0, 10:20, 10:20] = 1
    where = changed(draw_instances(grey(30, 40), one_box((2.0, 2.0, 30.0, 28.0), masks=masks), NAMES), grey(420, 560))
    assert where[14 * 11 : 14 * 19, 14 * 11 : 14 * 19].all()


def test_keypoints():
    points = torch.tensor([[[250.0, 250.0, 2.0], [300.0, 300.0, 1.0], [350.0, 200.0, 0.0]]])
    where = changed(draw_instances(grey(), one_box(keypoints=points), NAMES), grey())
    assert where[250, 250] and where[300, 300] and not where[200, 350]


def test_crowd_regions_are_grey_and_hatched():
    image = grey()
    picture = draw_instances(image, one_box(iscrowd=torch.tensor([True])), NAMES)
    where = changed(picture, image)[160:340, 210:390]
    assert 0.02 < where.mean() < 0.6
    pixels = picture[160:340, 210:390].astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2) <= 1).all()


def test_colours_are_stable_and_distinct():
    colours = [class_colour(label) for label in range(1, 81)]
    assert len(set(colours)) == 80 and class_colour(3) == colours[2]
    neighbours = [np.abs(np.subtract(a, b)).sum() for a, b in itertools.pairwise(colours)]
    assert min(neighbours) > 150


def test_labels_of_close_boxes_do_not_cover_each_other():
    boxes = torch.tensor([[100.0, 100.0, 300.0, 300.0], [105.0, 104.0, 305.0, 300.0], [110.0, 108.0, 310.0, 310.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    picture = draw_instances(grey(), target, ["aaaaaa", "bbbbbb", "cccccc"])
    for label in (1, 2, 3):
        assert (picture == np.array(class_colour(label))).all(axis=2).sum() > 1400


@pytest.mark.parametrize(
    "box",
    [(-50.0, -50.0, 1000.0, 900.0), (0.0, 0.0, 1.0, 1.0), (799.0, 599.0, 800.0, 600.0), (790.0, 0.0, 800.0, 600.0)],
)
def test_boxes_at_and_beyond_the_border(box):
    for crowd in (False, True):
        picture = draw_instances(grey(), one_box(box, iscrowd=torch.tensor([crowd])), NAMES)
        assert picture.shape == (600, 800, 3) and changed(picture, grey()).any()


def test_unknown_labels_and_foreign_letters_do_not_stop_the_drawing():
    assert changed(draw_instances(grey(), one_box(label=9), NAMES), grey()).any()
    assert changed(draw_instances(grey(), one_box(), ["Straße 道路"]), grey()).any()


def test_objects_of_one_class_have_a_colour_each_and_those_of_several_the_colour_of_their_class():
    boxes = torch.tensor([[100.0, 100.0, 200.0, 200.0], [400.0, 100.0, 500.0, 200.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 1])}
    left, right = (draw_instances(grey(), target, ["cat"], labels=False)[150, x] for x in (100, 400))
    assert np.array_equal(sorted([*left, *right]), sorted([*class_colour(1), *class_colour(2)]))
    assert not np.array_equal(left, right)
    left, right = (draw_instances(grey(), target, ["cat", "dog"], labels=False)[150, x] for x in (100, 400))
    assert np.array_equal(left, class_colour(1)) and np.array_equal(right, class_colour(1))


def test_without_labels_only_boxes_are_drawn():
    picture = draw_instances(grey(), one_box(scores=torch.tensor([0.9])), NAMES, labels=False)
    where = changed(picture, grey())
    assert where[150, 300] and not where[:145].any() and not where[356:].any()


def crowded(count=15, side=12.0, gap=4.0):
    """A block of count x count small objects, close to one another."""
    starts = torch.arange(count) * (side + gap) + 100
    y, x = torch.meshgrid(starts, starts, indexing="ij")
    corner = torch.stack([x.flatten(), y.flatten()], dim=1)
    return torch.cat([corner, corner + side], dim=1)


def test_labels_hide_no_small_objects():
    boxes = crowded()
    target = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}
    bare = draw_instances(grey(), target, ["fingerling"], labels=False)
    picture = draw_instances(grey(), target, ["fingerling"])
    covered = changed(picture, bare)
    assert covered.any()  # those at the rim have a label outside of the block
    shares = [covered[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in boxes.int().tolist()]
    assert max(shares) < 0.5 and np.mean(shares) < 0.05


def test_labels_of_a_lone_object_are_written_in_full_and_shrink_where_space_is_short():
    lone = changed(draw_instances(grey(), one_box(), ["fingerling"]), grey())
    row = {"boxes": torch.tensor([[20.0 + 90 * i, 100.0, 70.0 + 90 * i, 150.0] for i in range(8)])}
    target = {**row, "labels": torch.ones(8, dtype=torch.int64), "scores": torch.linspace(0.3, 0.99, 8)}
    picture = draw_instances(grey(), target, ["a long name indeed"])
    assert lone[138:148, 200:270].mean() > 0.8
    tags = changed(picture, draw_instances(grey(), target, ["a long name indeed"], labels=False))
    assert tags[:, :].any() and not tags[102:148, 25:65].any()


def test_lines_are_wide_on_large_pictures_and_thin_around_small_objects():
    def width(size, box):
        picture = draw_instances(grey(*size), one_box(box), NAMES, labels=False)
        column = (picture[int((box[1] + box[3]) / 2)] == np.array(class_colour(1))).all(axis=1)
        return int(column[: int((box[0] + box[2]) / 2)].sum())

    small, usual, large = ((100.0, 100.0, side + 100, side + 100) for side in (10.0, 300.0, 1500.0))
    assert width((600, 800), small) == 1 < width((600, 800), usual) < width((3000, 4000), large)


def test_small_objects_of_one_picture_have_equal_lines_whether_a_little_larger_or_not():
    sides = [20.0, 22.0, 26.0, 30.0]  # a line of two pixels would suit the last two
    boxes = torch.tensor([[100.0 * i, 100.0, 100.0 * i + side, 100.0 + side] for i, side in enumerate(sides, 1)])
    target = {"boxes": boxes, "labels": torch.full((4,), 2)}
    picture = draw_instances(grey(600, 800), target, NAMES, labels=False)
    row = (picture[110] == np.array(class_colour(2))).all(axis=1)
    assert row.sum() == 2 * len(sides) and (picture[110][~row] == picture[0, 0]).all()


def test_pictures_bear_the_name_of_their_file():
    image = torch.full((3, 600, 800), 90, dtype=torch.uint8)
    named, numbered = (training_image(image, {**one_box(), "image_id": 12}, NAMES, name) for name in ("street.jpg", ""))
    caption = with_caption(draw_instances(grey(), one_box(), NAMES), "street.jpg: 800 x 600, 1 objects")
    assert np.array_equal(named, caption) and not np.array_equal(numbered, named)
    sides = side_by_side(grey(), one_box(), one_box(scores=torch.tensor([0.9])), NAMES, name="street.jpg")
    expected = with_caption(draw_instances(grey(), one_box(), NAMES), "street.jpg: ground truth")
    assert np.array_equal(sides[:, :800], expected)


def test_side_by_side():
    prediction = {
        "boxes": torch.tensor([[100.0, 400.0, 300.0, 500.0], [500.0, 400.0, 700.0, 500.0]]),
        "labels": torch.tensor([2, 2]),
        "scores": torch.tensor([0.9, 0.1]),
    }
    picture = side_by_side(grey(), one_box(), prediction, NAMES)
    bar = picture.shape[0] - 600
    assert picture.shape[1] == 2 * 800 + 8 and 15 < bar < 60
    left, right = picture[bar:, :800], picture[bar:, 808:]
    assert np.array_equal(left, draw_instances(grey(), one_box(), NAMES))
    assert np.array_equal(right, draw_instances(grey(), prediction, NAMES, 0.3))
    assert not changed(right, grey())[:, 480:].any()
    assert (picture[:bar, :800] < 128).any() and (picture[:bar, 808:] < 128).any()  # captions


def test_training_image():
    image = torch.full((3, 600, 800), 90, dtype=torch.uint8)
    picture = training_image(image, {**one_box(), "image_id": 12}, NAMES)
    assert np.array_equal(picture[-600:], draw_instances(grey(), one_box(), NAMES))


def test_contact_sheet():
    sheet = contact_sheet([grey(10, 20), grey(30, 20), grey(10, 50)], columns=2)
    assert sheet.shape == (30 + 8 + 10, 50, 3)
    assert (sheet[:10, :20] == 90).all() and (sheet[10:30, :20] == 255).all() and (sheet[38:, :50] == 90).all()
    with pytest.raises(ValueError, match="0"):
        contact_sheet([])


def test_long_captions_stay_inside():
    assert with_caption(grey(), "word " * 100).shape[1] == 800


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((3, 5, 500), np.uint8), torch.zeros(3, 0, 5)])
def test_what_is_no_picture_is_an_error(image):
    with pytest.raises(ValueError, match="a picture has the shape"):
        draw_instances(image, one_box(), NAMES)
