"""Activations that are computed again: the same numbers, less memory."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detframe.config import get_cfg, validate
from detframe.layers import affine_norms_at_once, recompute
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import MobileNetV2, ResNet, ResNetSpec, TimmBody

STAGES = ("res2", "res3", "res4", "res5")


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside of the `with`, by a model, have held at once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = [value.untyped_storage() for value in model.state_dict().values()]
        self.known = {id(storage) for storage in self.weights}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage) -> None:
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, id(storage), storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def resnet(norm: str) -> nn.Module:
    return ResNet(ResNetSpec(18, norm=norm, freeze_at=0))


BODIES = {
    "BN": lambda: resnet("BN"),
    "GN": lambda: resnet("GN"),
    "FrozenBN": lambda: ResNet(ResNetSpec(18, norm="FrozenBN", freeze_at=2)),
    "MobileNetV2": MobileNetV2,
    "timm": lambda: TimmBody("resnet18"),
    "timm with stochastic depth": lambda: TimmBody("convnext_atto"),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The same body twice, the second with all stages computed again."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = BODIES[name]()
    for module in plain.modules():
        if type(module).__name__ == "DropPath" or isinstance(module, nn.Identity):
            module.drop_prob = 0.3
    if name == "timm with stochastic depth":
        for block in (member for members in plain.blocks().values() for member in members):
            block.drop_path = nn.Dropout2d(0.3)
    saving = copy.deepcopy(plain)
    for members in saving.blocks().values():
        for member in members:
            recompute(member)
    return plain.train(), saving.train()


def passed(body: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A loss, and gradients and buffers after its backward pass."""
    torch.manual_seed(1)
    with affine_norms_at_once(body):
        loss = sum(m.square().mean() for m in body(images).values())
    loss.backward()
    found = {name: p.grad for name, p in body.named_parameters() if p.grad is not None}
    return loss.detach(), {**found, **{name: b.clone() for name, b in body.named_buffers()}}


@pytest.mark.parametrize("name", BODIES)
def test_losses_gradients_and_statistics_are_the_same(name: str) -> None:
    plain, saving = pair(name)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    for _ in range(2):  # the second pass uses the statistics of the first
        (loss, found), (again, found_again) = passed(plain, images), passed(saving, images)
        assert torch.equal(loss, again)
        assert found.keys() == found_again.keys() and len(found) > 40
        wrong = [key for key in found if not torch.equal(found[key], found_again[key])]
        assert not wrong
    counted = [b for key, b in saving.named_buffers() if key.endswith("num_batches_tracked")]
    assert all(int(b) == 2 for b in counted)
    assert len(counted) > 0 or name not in ("BN", "MobileNetV2", "timm")


def test_memory_falls() -> None:
    """To the stem, what stands between blocks, and one block; the finest stages bring most of it."""
    images, peaks = torch.randn(2, 3, 192, 192), []
    for stages in ((), ("res2",), ("res2", "res3"), STAGES):
        body = MobileNetV2()
        for stage in stages:
            for block in body.blocks()[stage]:
                recompute(block)
        with Peak(body) as peak:
            sum(m.square().mean() for m in body(images).values()).backward()
        peaks.append(peak.most / 1e6)
    assert peaks[0] > 100  # in MB
    assert peaks[1] < 0.7 * peaks[0] and peaks[2] < 0.5 * peaks[0] and peaks[3] <= peaks[2]


def test_evaluation_and_frozen_stages_compute_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("detframe.layers.recomputing.checkpoint", lambda *args, **_: calls.append(args[1]))
    _, saving = pair("FrozenBN")
    images = torch.randn(1, 3, 64, 64)
    saving.eval()(images)
    with torch.no_grad():
        saving.train()(images)
    assert calls == []
    saving.stem(images)
    block = saving.blocks()["res2"][0]  # frozen, and so is what comes in
    block(torch.randn(1, 64, 16, 16))
    assert calls == []
    block(torch.randn(1, 64, 16, 16, requires_grad=True))
    assert calls == [block]


def test_a_failure_in_the_second_pass_leaves_buffers_as_they_were() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.calls = nn.BatchNorm2d(3), 0

        def forward(self, x):
            self.calls += 1
            y = self.bn(x)
            if self.calls == 2:
                raise RuntimeError("here")
            return y.exp()

    fails = Fails()
    recompute(fails)
    with pytest.raises(RuntimeError, match="here"):
        fails(torch.randn(2, 3, 4, 4)).sum().backward()
    assert int(fails.bn.num_batches_tracked) == 1 and fails.calls == 2


def test_copies_and_pickles_are_of_their_own_module() -> None:
    _, saving = pair("BN")
    for other in (copy.deepcopy(saving), pickle.loads(pickle.dumps(saving))):
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
            assert all(float(m.abs().sum()) == 0 for m in other.eval()(torch.randn(1, 3, 64, 64)).values())
            assert float(saving.eval()(torch.randn(1, 3, 64, 64))["res5"].abs().sum()) > 0


# ---------------------------------------------------------------------------------------------- the key
def config(*overrides):
    cfg = get_cfg()
    keys = ["MODEL.NUM_CLASSES", 2, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0]
    cfg.merge_from_list([*keys, "MODEL.BACKBONE.CONV_BODY", "R-18-FPN", *overrides])
    return cfg


def stages(model):
    body = model.backbone.body
    return [name for name, blocks in body.blocks().items() if all("forward" in b.__dict__ for b in blocks)]


@pytest.mark.parametrize("body", ["R-18-FPN", "MNV2-FPN", "R-18-EFPN", "R-18-C4"])
def test_the_key_chooses_stages(body: str) -> None:
    keys = ("MODEL.BACKBONE.CONV_BODY", body, "MODEL.RPN.ANCHOR_SIZES", [[32]])
    model = build_detection_model(config("MODEL.CHECKPOINT_ACTIVATIONS", ["res2", "res4"], *keys))
    assert stages(model) == ["res2", "res4"]
    assert stages(build_detection_model(config(*keys))) == []


def test_stages_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"'R-18-FPN' has no stages .* called res6: it has res2, res3, res4, res5"):
        build_detection_model(config("MODEL.CHECKPOINT_ACTIVATIONS", ["res2", "res6"]))
    keys = ("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.RPN.ANCHOR_SIZES", [[32]])
    with pytest.raises(ValueError, match=r"called res5: it has res2, res3, res4"):
        build_detection_model(config("MODEL.CHECKPOINT_ACTIVATIONS", ["res5"], *keys))
    for how in ("dense", "step"):
        with pytest.raises(ValueError, match=r"MODEL\.COMPILE must be off with MODEL\.CHECKPOINT_ACTIVATIONS"):
            validate(config("MODEL.CHECKPOINT_ACTIVATIONS", ["res2"], "MODEL.COMPILE", how))


def test_a_body_that_is_built_in_another_way() -> None:
    pytest.importorskip("timm")
    keys = ("MODEL.BACKBONE.CONV_BODY", "timm/regnetx_002-FPN")
    with pytest.raises(ValueError, match=r"no stages made of blocks that are called res2: it does not say"):
        build_detection_model(config("MODEL.CHECKPOINT_ACTIVATIONS", ["res2"], *keys))
