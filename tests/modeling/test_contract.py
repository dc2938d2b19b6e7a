"""Images and targets that break their contract: one sentence each, and nothing is guessed in silence."""

import pytest
import torch

from detframe.errors import UserError
from detframe.modeling import build_detection_model
from tests.modeling.tiny import make_target, tiny_config

IMAGE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
NAN = IMAGE.clone()
NAN[1, 2, 3] = float("nan")
BOXES = [[4.0, 4, 40, 40], [20, 10, 60, 50]]


def target(**changed):
    return {**make_target(BOXES, [1, 3], seed=5, image_id=7), **changed}


@pytest.fixture(scope="module")
def model():
    keys = {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8, "MODEL.KEYPOINT_ON": True}
    keys |= {"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 4, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,)}
    torch.manual_seed(0)
    return build_detection_model(tiny_config(keys))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("image", "says"),
    [
        (IMAGE * 255, r"image 1 of 1 must be .* run from 0.* to 25\d.*divide what runs to 255 by 255"),
        ((IMAGE - 0.45) / 0.22, r"values of this one run from -2.*do not normalise: the model does"),
        (NAN, r"values of this one run from nan"),
        (IMAGE.half() * float("inf"), r"run from (nan|inf)"),
        ((IMAGE * 255).to(torch.int16), r"not torch\.int16; image\.to\(torch\.uint8\)"),
        ((IMAGE * 255).long(), r"not torch\.int64"),
        (IMAGE > 0.5, r"not torch\.bool"),
        (torch.zeros(3, 0, 5), r"not \(3, 0, 5\)"),
        (torch.zeros(4, 8, 8), r"not \(4, 8, 8\)"),
        (IMAGE.numpy(), "not a ndarray"),
        (None, "not a NoneType"),
    ],
)
def test_images(model, training, image, says):
    model.train(training)
    with pytest.raises(UserError, match=says):
        model([image], [target()])


@pytest.mark.parametrize("image", [IMAGE.double(), IMAGE.half(), IMAGE * 1.1 - 0.05, torch.rand(3, 1, 1)])
def test_images_that_are_good(model, image):
    (prediction,) = model.eval()([image])
    assert torch.isfinite(prediction["boxes"]).all()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"labels": torch.tensor([1.7, 3.0])}, r"labels must be whole numbers \(int64\), not torch\.float32"),
        ({"labels": torch.tensor([True, True])}, r"not torch\.bool"),
        ({"labels": torch.tensor([0, 1])}, r"label 0, but labels run from 1 to 3"),
        ({"labels": torch.tensor([4, 1])}, r"label 4, but labels run from 1 to 3"),
        ({"labels": [1, 3]}, "labels must be a tensor, not a list"),
        ({"boxes": BOXES}, "boxes must be a tensor, not a list"),
        ({"boxes": torch.zeros(0)}, r"boxes must have shape \(N, 4\), not \(0,\)"),
        ({"boxes": torch.tensor([[9.0, 9, 9, 20], [1, 1, 2, 2]])}, "has no area"),
        ({"boxes": torch.tensor([[1.0, 1, float("inf"), 20], [1, 1, 2, 2]])}, "has no area"),
        (
            {"boxes": torch.tensor([[400.0, 9, 420, 20], [1, 1, 2, 2]])},
            "outside of the image, which is 64 wide",
        ),
        ({"boxes": torch.tensor([[-20.0, 9, 0, 20], [1, 1, 2, 2]])}, "outside of the image"),
        ({"iscrowd": torch.tensor([False])}, "2 boxes but 1 rows of iscrowd"),
        ({"iscrowd": [False, True]}, "iscrowd must be a tensor, not a list"),
        ({"masks": torch.ones(1, 64, 64, dtype=torch.bool)}, "2 boxes but 1 rows of masks"),
        (
            {"masks": torch.ones(2, 32, 32, dtype=torch.bool)},
            r"masks of \(32, 32\) pixels, but the image has \(64,",
        ),
        ({"keypoints": torch.ones(1, 4, 3)}, "2 boxes but 1 rows of keypoints"),
        ({"keypoints": torch.ones(2, 4, 2)}, r"keypoints must have shape \(N, P, 3\).*not \(2, 4, 2\)"),
        ({"keypoints": torch.ones(2, 7, 3)}, r"7 keypoints .* 4: .* MODEL\.ROI_KEYPOINT_HEAD\.NUM_KEYPOINTS 7"),
    ],
)
def test_targets(model, changed, says):
    good = target(masks=torch.ones(2, 64, 64, dtype=torch.bool), keypoints=torch.ones(2, 4, 3))
    with pytest.raises(UserError, match=says):
        model.train()([IMAGE], [{**good, **changed}])


def test_what_is_no_target(model):
    with pytest.raises(TypeError, match="a target must be a dict with 'boxes' and 'labels', not a NoneType"):
        model.train()([IMAGE], [None])
    with pytest.raises(ValueError, match="has no 'labels'"):
        model([IMAGE], [{"boxes": torch.tensor(BOXES)}])
