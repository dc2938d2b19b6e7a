"""What inferences keep of weights: results are those of the weights as they are, whatever changes them and how."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch

from detframe.config import get_cfg
from detframe.evaluation import run_evaluation
from detframe.layers import RestingWeights, folding, resting, resting_layers, use_resting_layers, weights_stay
from detframe.layers.resting import _bits
from detframe.modeling import build_detection_model
from detframe.modeling.roi_heads import convs
from tests.modeling.tiny import DENSE, tiny_config

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


def _rows(model):
    """The sum of all values stays."""
    weight = model.backbone.body.layer2[0].conv1.weight.data
    weight.copy_(weight.flip(0))


def _neurons(model):
    weight = model.roi_heads.box_head.fc6.weight.data
    weight.copy_(weight.flip(0))


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
    "change",
    [_row, _data, _one_value, _numpy, _rows, _neurons, _replaced, _norm, _loaded, _fully_connected, _step],
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


@pytest.mark.parametrize("multiplies", [False, True])
def test_the_first_fully_connected_layer_is_laid_out_once(model, monkeypatch, multiplies):
    """For maps in channels_last its weight is laid out anew, by a convolution within each call."""
    monkeypatch.setattr(convs, "_MULTIPLIES", multiplies)
    size = model.roi_heads.box_head.fc6.weight.numel()
    copies = []
    for _ in range(2):
        with torch.no_grad(), torch.profiler.profile(record_shapes=True) as profiler:
            model(IMAGES)
        shapes = [row.input_shapes[0] for row in profiler.events() if row.key == "aten::copy_"]
        copies.append(sum(math.prod(shape) == size for shape in shapes))
    assert copies[0] and not copies[1]


MASKS = {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
POINTS = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 4,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,),
}
KINDS = {
    "faster_rcnn": {},
    "norm_in_the_box_head": {"MODEL.ROI_BOX_HEAD.NORM": "GN", "MODEL.ROI_BOX_HEAD.NUM_CONV": 1},
    "masks": MASKS,
    "points_of_masks": {**MASKS, "MODEL.ROI_MASK_HEAD.NAME": "PointRend", "MODEL.POINT_HEAD.FC_DIM": 12},
    "keypoints": POINTS,
    "cascade": {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "efpn": {"MODEL.BACKBONE.CONV_BODY": "R-18-EFPN", "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads", "MODEL.EFPN.WIDTH": 8,
             "MODEL.RPN.FINEST_LEVEL": "p2"},
    "depthwise": {"MODEL.BACKBONE.CONV_BODY": "MNV2-FPN", "MODEL.FPN.NORM": "GN"},
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS"},
    "dynamic": {**DENSE, "MODEL.RPN.NAME": "ATSS", "MODEL.DYHEAD.NUM_BLOCKS": 1},
    "gfl": {**DENSE, "MODEL.RPN.NAME": "GFL"},
    "tood": {**DENSE, "MODEL.RPN.NAME": "TOOD"},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet"},
}  # fmt: skip


class Casts(torch.utils._python_dispatch.TorchDispatchMode):
    """The shapes of what is brought from fp32 to bf16 inside of the `with`."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.name().startswith("aten::_to_copy") and (args[0].dtype, out.dtype) == (torch.float32, torch.bfloat16):
            self.shapes.append(tuple(out.shape))
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_cast_once(kind):
    """Each inference has an autocast of its own, as each prediction of a Detector; results are those of any pass."""
    torch.manual_seed(0)
    small = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16, "MODEL.ROI_HEADS.SCORE_THRESH": 0.0, "MODEL.FCOS.INFERENCE_TH": 0.0}
    small["TEST.DETECTIONS_PER_IMG"] = 8
    cfg = tiny_config({**small, "MODEL.RETINANET.INFERENCE_TH": 0.0, **KINDS[kind]})
    model = build_detection_model(cfg).eval()
    weights = {tuple(p.shape) for p in model.parameters()}  # of five images, no other value has such a shape
    found, casts = [], []
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Casts() as counted:
            found.append(model(IMAGES * 5)[0])
        casts.append([shape for shape in counted.shapes if shape in weights])
    assert casts[0] and not casts[1]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    for module in model.modules():  # PyTorch's own layers, which cast at every call
        module.__class__ = {own: plain for plain, own in resting_layers._OWN.items()}.get(type(module), type(module))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = copy.deepcopy(model)(IMAGES * 5)[0]
    assert len(plain["scores"]) > 0 and all(torch.equal(value, found[0][key]) for key, value in plain.items())


def test_a_layer_whose_forward_pass_is_its_own_stays_what_it_is():
    class Own(torch.nn.Linear):
        pass

    layers = torch.nn.Sequential(Own(2, 2), torch.nn.Linear(2, 2))
    use_resting_layers(layers)
    assert type(layers[0]) is Own and type(layers[1]) is resting_layers.Linear


@pytest.mark.parametrize("how", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}, {"padding": (2, 0)}])
def test_convolutions_of_any_padding_give_what_pytorchs_do(how):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, **how), torch.nn.ConvTranspose2d(4, 2, 2, 2, bias=False)
    ).eval()
    own, x, resting = copy.deepcopy(plain), torch.rand(1, 3, 9, 8), RestingWeights()
    use_resting_layers(own)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), resting.of(own):
        for _ in range(2):
            assert torch.equal(own(x), plain(x))
        size = plain[0](x).shape[2] * 2 + 1, plain[0](x).shape[3] * 2
        assert torch.equal(own[1](own[0](x), size), plain[1](plain[0](x), size))


class NoChange:
    """An evaluator of nothing."""

    def reset(self):
        pass

    def update(self, targets, predictions):
        pass

    def compute(self):
        return {}


def test_an_evaluation_looks_at_the_weights_once(model, monkeypatch):
    looked, plain = [], resting._State

    def state(tensors):
        looked.append(1)
        return plain(tensors)

    monkeypatch.setattr(resting, "_State", state)
    batches = [(IMAGES, [{"image_id": 1, "orig_size_hw": (64, 96)}])] * 3
    for number in (1, 2):
        run_evaluation(model, batches, NoChange())
        assert len(looked) == number
    with torch.no_grad():
        model(IMAGES)
        model(IMAGES)
    assert len(looked) == 4


def test_what_is_trained_while_weights_stay_is_seen(model):
    with weights_stay():
        before = assert_true(model)
        _step(model)
        after = assert_true(model)
    assert before.shape != after.shape or not torch.equal(before, after)


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
@pytest.mark.parametrize("few", [0, 4096])
def test_any_value_counts(dtype, shape, few, monkeypatch):
    monkeypatch.setattr(resting, "_FEW", few)
    x = torch.ones(shape, dtype=dtype)
    for form in [x, x.to(memory_format=torch.channels_last), x.transpose(0, 1)] if x.ndim == 4 else [x]:
        before = _bits(form)
        assert torch.equal(before, _bits(form.clone()))
        for i in range(form.numel()):
            changed = form.clone()
            changed.as_strided((form.numel(),), (1,))[i] = 0
            assert not torch.equal(before, _bits(changed))


def test_values_of_a_small_tensor_that_change_places_are_seen():
    bias = torch.arange(6.0)
    assert not torch.equal(_bits(bias), _bits(bias[[2, 3, 0, 1, 4, 5]]))
