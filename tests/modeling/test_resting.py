"""What inferences keep of weights: results are those of the weights as they are, whatever changes them and how."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from detframe.config import get_cfg
from detframe.layers import folding
from detframe.layers.resting import _sum_of_bits
from detframe.modeling import build_detection_model

IMAGES = [torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    cfg = get_cfg().changed(
        [
            ("MODEL.DEVICE", "cpu"),
            ("MODEL.NUM_CLASSES", 3),
            ("MODEL.BACKBONE.CONV_BODY", "R-18-FPN"),
            ("MODEL.FPN.OUT_CHANNELS", 32),
            ("MODEL.RPN.POST_NMS_TOP_N_TEST", 20),
            ("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 20),
            ("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16),
            ("MODEL.ROI_HEADS.SCORE_THRESH", 0.01),
        ]
    )
    return build_detection_model(cfg).eval()


def assert_true(model, bf16=False):
    """An inference gives what the same pass gives where gradients may be asked for, which keeps nothing."""
    found = []
    for grad in (False, True):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(model(IMAGES)[0])
    kept, fresh = found
    if bf16:  # whose products are rounded in another order
        torch.testing.assert_close(kept["scores"][:5], fresh["scores"][:5].detach(), atol=0.02, rtol=0.02)
        return kept["scores"]
    assert len(kept["scores"]) == len(fresh["scores"]) > 0
    torch.testing.assert_close(kept["scores"], fresh["scores"].detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept["boxes"], fresh["boxes"].detach(), atol=1e-3, rtol=1e-4)
    return kept["scores"]


@torch.no_grad()
def _row(model):
    model.backbone.body.layer2[0].conv1.weight[3].mul_(-1)


def _data(model):
    model.backbone.body.layer3[0].conv2.weight.data.mul_(-2)


def _one_value(model):
    model.backbone.body.layer1[0].conv2.weight.data[1, 2, 0, 1] += 3


def _numpy(model):
    model.backbone.body.layer1[0].conv1.weight.detach().numpy()[5] *= -1


def _replaced(model):
    conv = model.backbone.body.layer3[0].conv2
    conv.weight = torch.nn.Parameter(-conv.weight.detach())


def _norm(model):
    model.backbone.body.layer2[1].bn1.running_var.mul_(0.25)


def _loaded(model):
    model.load_state_dict({name: -0.5 * value for name, value in model.state_dict().items() if "running" not in name},
                          strict=False)  # fmt: skip


def _fully_connected(model):
    model.roi_heads.box_head.fc6.weight.data.mul_(-1)


def _step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    targets = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
    sum(model.train()(IMAGES, targets).values()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    "change", [_row, _data, _one_value, _numpy, _replaced, _norm, _loaded, _fully_connected, _step]
)
def test_a_change_of_weights_is_seen(model, change):
    before = assert_true(model)
    change(model)
    after = assert_true(model)
    assert before.shape != after.shape or not torch.equal(before, after)


def test_precisions_do_not_mix(model):
    first = assert_true(model)
    assert_true(model, bf16=True)
    assert torch.equal(assert_true(model), first)
    with torch.inference_mode():
        model(IMAGES)
    assert_true(model)


def test_the_second_inference_makes_nothing_of_the_weights(model):
    with torch.no_grad():
        model(IMAGES)
    products = []

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.name().startswith(("aten::mul", "aten::rsqrt", "aten::_to_copy")):
                products.append([tuple(x.shape) for x in args if isinstance(x, torch.Tensor)])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Products():
        model(IMAGES)
    weights = {tuple(p.shape) for p in model.parameters() if p.ndim == 4}
    assert not [shapes for shapes in products if shapes and shapes[0] in weights]


def test_copies_and_files_hold_nothing_and_training_lets_go(model):
    with torch.no_grad():
        model(IMAGES)
    assert model.resting._kept
    assert not copy.deepcopy(model).resting._kept
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert not torch.load(file, weights_only=False).resting._kept
    model.train()(IMAGES, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}])
    assert not model.resting._kept


def test_nothing_is_kept_where_modules_are_to_be_called_themselves(model):
    with torch.no_grad(), folding(False):
        model(IMAGES)
    assert not model.resting._kept


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.complex64,
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (8,), (4, 2, 3, 3)])
def test_any_value_is_in_the_sum(dtype, shape):
    x = torch.ones(shape, dtype=dtype)
    for form in [x, x.to(memory_format=torch.channels_last)] if x.ndim == 4 else [x]:
        before = _sum_of_bits(form)
        assert torch.equal(before, _sum_of_bits(form.clone()))
        for i in range(form.numel()):
            changed = form.clone()
            changed.as_strided((form.numel(),), (1,))[i] = 0
            assert not torch.equal(before, _sum_of_bits(changed))
