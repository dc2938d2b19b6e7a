"""The extended levels against the authors' release, and their sizes and gradients."""

import pytest
import torch

from detframe.modeling.backbones.texture_transfer import Extension, ResidualBlock, TextureTransfer
from tests.modeling.parity import formula, reference, reference_state

OURS = {
    "FTT.content_extractor.content_head.0": "transfer.content_head",
    "FTT.content_extractor.content_body.0.conv_block.0": "transfer.content_body.0.conv1",
    "FTT.content_extractor.content_body.0.conv_block.2": "transfer.content_body.0.conv2",
    "FTT.sub_pixel.0": "transfer.sub_pixel",
    "FTT.texture_extractor.texture_head.0": "transfer.texture_head",
    "FTT.texture_extractor.texture_body.0.conv_block.0": "transfer.texture_body.0.conv1",
    "FTT.texture_extractor.texture_body.0.conv_block.2": "transfer.texture_body.0.conv2",
    "FTT.texture_extractor.texture_body.1.conv_block.0": "transfer.texture_body.1.conv1",
    "FTT.texture_extractor.texture_body.1.conv_block.2": "transfer.texture_body.1.conv2",
    "FTT.tail.0": "transfer.tail1",
    "FTT.tail.2": "transfer.tail2",
    "conv_lateral": "lateral",
    "post": "output",
}


def make(channels=256, width=512, skip=True, c2_channels=256):
    return Extension(TextureTransfer(channels, width, ResidualBlock, 1, 2, skip), c2_channels, channels)


def test_the_extended_levels_equal_the_release():
    ref, arrays = reference("efpn_extension")
    state = {}
    for name, value in reference_state(ref).items():
        module, _, kind = name.rpartition(".")
        state[f"{OURS[module]}.{kind}"] = value
    extension = make()
    extension.load_state_dict(state)
    maps = [
        torch.from_numpy(formula.features(ref["seeds"][name], tuple(ref["shapes"][name])))
        for name in ("fpn_inner3", "fpn_inner2", "c2_prime")
    ]
    with torch.inference_mode():
        out = dict(zip(("p3_prime", "p2_prime"), extension(*maps), strict=True))
    for name, value in out.items():
        mean, crop = (torch.from_numpy(arrays[f"{name}.{part}"]) for part in ("mean", "crop"))
        torch.testing.assert_close(value.mean((2, 3)), mean, rtol=1e-4, atol=1e-4)
        scale = float(crop.abs().max())
        assert (value[:, :16, :8, :8] - crop).abs().max() <= 1e-4 * scale


def test_its_size_is_the_published_one():
    """32.5 M parameters at the paper's width."""
    assert round(sum(p.numel() for p in make().parameters()) / 1e6, 1) == 32.5


@pytest.mark.parametrize("size", [(5, 7), (6, 4)])
@pytest.mark.parametrize("odd", [0, 1])
def test_odd_sizes_and_a_gradient_for_every_parameter(size, odd):
    torch.manual_seed(0)
    extension = make(channels=8, width=12, c2_channels=6)
    (h, w), (h2, w2) = size, (2 * size[0] - odd, 2 * size[1] - odd)
    p3_prime, p2_prime = extension(
        torch.randn(2, 8, h, w), torch.randn(2, 8, h2, w2), torch.randn(2, 6, 2 * h2, 2 * w2)
    )
    assert p3_prime.shape == (2, 8, h2, w2) and p2_prime.shape == (2, 8, 2 * h2, 2 * w2)
    p2_prime.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in extension.parameters())
