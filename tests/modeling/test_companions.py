"""What is kept and drawn of an image does not depend on the images that share its batch."""

import torch

from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.proposals import NMS, Candidates, Proposals
from tests.modeling.tiny import make_target, tiny_config

CLASSES = 80


def crowded(generator, num_boxes=60):
    """Boxes of many classes in a large image, each with another that overlaps it by one half but for rounding."""
    corner, sides = (torch.rand(num_boxes, 2, generator=generator) for _ in range(2))
    boxes = torch.cat([corner * 1300, corner * 1300 + 20 + sides * 200], 1)
    moved = boxes + (boxes[:, 2:3] - boxes[:, :1]) / 3 * torch.tensor([1.0, 0, 1, 0])
    labels = torch.randint(1, CLASSES + 1, (num_boxes,), generator=generator)
    # few different scores, as half precision gives them
    scores = (torch.rand(num_boxes, generator=generator) * 16).ceil() / 16
    return torch.cat([boxes, moved]), torch.cat([scores, scores * 0.9]), torch.cat([labels, labels])


def test_suppression_of_an_image_in_company():
    """At the threshold and among equals, too: pairs with IoU 0.5 went the way of their image's place in the batch."""
    generator = torch.Generator().manual_seed(0)
    images = [crowded(generator) for _ in range(12)]  # more than 1000 boxes, from where on torchvision has another way
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*images, strict=True))
    image = torch.arange(12).repeat_interleave(len(images[0][0]))
    together = NMS(0.5, 80)(Candidates(boxes, scores, labels, image, image * (CLASSES + 1) + labels), 12)
    for i, (own_boxes, own_scores, own_labels) in enumerate(images):
        of_one = Candidates(own_boxes, own_scores, own_labels, torch.zeros_like(own_labels), own_labels)
        alone = NMS(0.5, 80)(of_one, 1)
        count = int(alone.valid.sum())
        assert int(together.valid[i].sum()) == count == 80
        assert torch.equal(together.boxes[i, :count], alone.boxes[0])
        assert torch.equal(together.labels[i, :count], alone.labels[0])


def drawn(model, proposals_per_image, targets):
    """The regions of the first image that the ROI heads draw for their loss."""
    longest = max(map(len, proposals_per_image))
    boxes, valid = torch.zeros(len(targets), longest, 4), torch.zeros(len(targets), longest, dtype=torch.bool)
    for i, own in enumerate(proposals_per_image):
        boxes[i, : len(own)], valid[i, : len(own)] = own, True
    scores = torch.rand(valid.shape)
    proposals = Proposals(boxes, scores, torch.ones_like(valid, dtype=torch.int64), valid)
    regions = model.roi_heads._sample(proposals, pack_targets(targets, 3, torch.device("cpu")))
    return regions.boxes[regions.image == 0]


def test_regions_drawn_of_an_image_in_company():
    model = build_detection_model(tiny_config({"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 12}))
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator) * 40
    many = torch.cat([corner, corner + 4 + torch.rand(40, 2, generator=generator) * 20], 1)
    few = [[2.0 + 3 * i, 2, 20 + 3 * i, 30] for i in range(8)]
    target, other = make_target(few, [1] * 8, seed=5), make_target([[1.0, 1, 9, 9]] * 11, [2] * 11, seed=6)
    alone = drawn(model, [many[:20]], [target])
    assert len(alone) == 12
    assert torch.equal(drawn(model, [many[:20], many], [target, target]), alone)
    assert torch.equal(drawn(model, [many[:20], many[:3]], [target, other]), alone)
