"""Matching and sampling: by hand, against torchvision's matcher, and under every awkward shape."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detframe.ops import BoxCoder, Matching, Sampling, match_boxes, random_keys, sample_balanced


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(500, 2, generator=generator) * 200
    anchors = torch.cat([corner, corner + 10 + torch.rand(500, 2, generator=generator) * 60], 1)
    corner = torch.rand(3, 6, 2, generator=generator) * 200
    gt = torch.cat([corner, corner + 10 + torch.rand(3, 6, 2, generator=generator) * 60], 2)
    valid = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [False] * 6])
    return gt, valid, anchors


@pytest.mark.parametrize(("max_pairs", "cache_pairs"), [(2**25, 2**20), (2**25, 700), (700, 2**20)])
def test_agrees_with_torchvision_and_does_not_depend_on_the_chunks(max_pairs, cache_pairs, monkeypatch):
    monkeypatch.setattr("detframe.ops.boxes.CACHE_PAIRS", cache_pairs)
    gt, valid, anchors = _batch()
    matches = match_boxes(gt, valid, anchors, Matching(0.6, 0.3), keep_best=True, max_pairs=max_pairs)
    for i in range(2):
        boxes = gt[i][valid[i]]
        expected = Matcher(0.6, 0.3, allow_low_quality_matches=True)(box_iou(boxes, anchors))
        label = torch.where(expected >= 0, 1, torch.where(expected == -1, 0, -1))
        assert matches.label[i].tolist() == label.tolist()
        positive = label == 1
        assert positive.any()
        assert matches.gt_index[i][positive].tolist() == expected[positive].tolist()
    assert (matches.label[2] == 0).all()


def test_boxes_from_pixel_to_pixel_overlap_by_their_pixels():
    """Two pixels of four in common, of six: a third, where the continuous boxes share one of five."""
    gt, anchor = (BoxCoder(pixel=1).extend(torch.tensor(box)) for box in ([[[0.0, 0, 3, 0]]], [[2.0, 0, 5, 0]]))
    matches = match_boxes(gt, torch.tensor([[True]]), anchor, Matching(0.7, 0.3), keep_best=False)
    torch.testing.assert_close(matches.iou, torch.tensor([[1 / 3]]))
    assert matches.label.tolist() == [[-1]]


def test_an_object_that_overlaps_no_anchor_makes_none_positive():
    gt = torch.tensor([[[1000.0, 1000, 1010, 1010]]])
    matches = match_boxes(
        gt, torch.tensor([[True]]), torch.tensor([[0.0, 0, 10, 10]]), Matching(0.7, 0.3), keep_best=True
    )
    assert matches.label.tolist() == [[0]]


@pytest.mark.parametrize("matching", [Matching(0.7, 0.3), Matching(0.5, 0.0), Matching(0.0, 0.0)])
def test_without_objects_all_is_background_whatever_the_thresholds(matching):
    """In one image, or in all of them."""
    gt, valid, anchors = _batch()
    for rows in (valid, torch.zeros_like(valid), torch.zeros_like(valid)[:, :1]):
        matches = match_boxes(gt[:, : rows.shape[1]], rows, anchors, matching, keep_best=True)
        assert matches.label.shape == (3, 500)
        assert not matches.label[2].any() and not matches.iou[2].any() and not matches.gt_index[2].any()


def test_per_image_proposals():
    gt, valid, anchors = _batch()
    shared = match_boxes(gt, valid, anchors, Matching(0.5, 0.5), keep_best=False)
    own = match_boxes(gt, valid, anchors.expand(3, -1, -1), Matching(0.5, 0.5), keep_best=False)
    assert torch.equal(shared.label, own.label)
    assert torch.equal(shared.gt_index, own.gt_index)


def test_keys_depend_on_the_image_seed_and_the_position_only():
    keys = random_keys(torch.tensor([5, 9, 5]), 1000)
    assert torch.equal(keys[0], keys[2])
    assert torch.equal(keys[1], random_keys(torch.tensor([9]), 2000)[0, :1000])
    assert 0 <= keys.min() and keys.max() < 1


def test_keys_are_those_of_the_hash():
    """MurmurHash3's finaliser in plain Python: other keys would be other runs from the same seeds."""

    def key(seed, position):
        x = (position * 0x85EBCA77 + seed * 0x9E3779B1) % 2**32
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return ((x ^ x >> 16) >> 8) / 2**24

    seeds = [0, 5, 2**31 + 7, 2**32 + 5]
    keys = random_keys(torch.tensor(seeds), 40)
    assert keys.tolist() == [[key(seed, position) for position in range(40)] for seed in seeds]


def test_keys_are_uniform_and_independent_of_each_other():
    keys = random_keys(torch.arange(200), 500)
    counts = torch.histc(keys, 20, 0, 1)
    assert (counts / counts.mean() - 1).abs().max() < 0.05
    assert abs(torch.corrcoef(torch.stack([keys[:-1].flatten(), keys[1:].flatten()]))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack([keys[:, :-1].flatten(), keys[:, 1:].flatten()]))[0, 1]) < 0.01


@pytest.mark.parametrize(("positives", "negatives"), [(40, 400), (3, 400), (40, 5), (0, 400), (40, 0), (0, 0)])
def test_sampling_fills_the_batch_as_far_as_there_are_rows(positives, negatives):
    labels = torch.cat([torch.ones(positives), torch.zeros(negatives), -torch.ones(50)]).long()[None]
    order = torch.randperm(labels.shape[1])
    labels = labels[:, order]
    index, drawn = sample_balanced(labels, random_keys(torch.tensor([1]), labels.shape[1]), Sampling(64, 0.25))
    rows = labels[0, index[0][drawn[0]]]
    expected_positives = min(16, positives)
    assert (rows == 1).sum() == expected_positives
    assert (rows == 0).sum() == min(64 - expected_positives, negatives)
    assert (rows >= 0).all()
    assert len(index[0][drawn[0]].unique()) == drawn.sum()


def test_sampling_draws_every_row_equally_often():
    labels = torch.zeros(4000, 20, dtype=torch.int64)
    index, drawn = sample_balanced(labels, random_keys(torch.arange(4000), 20), Sampling(5, 0.5))
    counts = torch.bincount(index[drawn], minlength=20)
    assert (counts / 1000 - 1).abs().max() < 0.12
