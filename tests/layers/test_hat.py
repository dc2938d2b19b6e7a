"""HAT's blocks against the authors' program, and on maps of any size."""

import pytest
import torch

from detframe.layers.hat import CAB, HAB, OCAB, ResidualHybridAttentionGroup
from tests.modeling.parity import formula, reference, reference_state

OURS = (
    ("residual_group.", ""),
    ("conv_block.cab.0.", "conv_block.conv1."),
    ("conv_block.cab.2.", "conv_block.conv2."),
    ("conv_block.cab.3.attention.1.", "conv_block.attention.reduce."),
    ("conv_block.cab.3.attention.3.", "conv_block.attention.expand."),
)


def group(**changes):
    settings = {"channels": 64, "depth": 2, "heads": 4, "window": 8, "mlp_ratio": 2, "squeeze": 16}
    return ResidualHybridAttentionGroup(**{**settings, **changes})


@pytest.fixture(scope="module")
def released():
    """The group with the reference's weights, its input, and the reference's outputs."""
    ref, arrays = reference("hat_rhag")
    state = {}
    for name, value in reference_state(ref).items():
        for theirs, ours in OURS:
            name = name.replace(theirs, ours)
        state[name] = value
    model = group()
    assert ref["settings"]["compress_ratio"] == 3 and ref["settings"]["conv_scale"] == 0.01
    model.load_state_dict(state)
    x = torch.from_numpy(formula.features(ref["input"]["seed"], tuple(ref["input"]["shape"])))
    return model, x, {name: torch.from_numpy(value) for name, value in arrays.items()}


def test_every_part_equals_the_authors_program(released):
    model, x, wanted = released
    with torch.inference_mode():
        plain = model.blocks[0](x)
        shifted = model.blocks[1](plain)
        found = {"hab0": plain, "hab1_shifted": shifted, "ocab": model.overlap_attn(shifted), "rhag": model(x)}
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-4 * float(wanted[name].abs().max()))


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (8, 8), (17, 9), (24, 16)])
def test_any_size_in_any_layout(size):
    torch.manual_seed(0)
    model = group(channels=8, squeeze=4, heads=2)
    for block in model.blocks:  # two channels within a ReLU may both be off
        torch.nn.init.ones_(block.conv_block.attention.reduce.bias)
    x = torch.randn(2, 8, *size)
    out = model(x)
    assert out.shape == x.shape
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), out, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(x), out)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    if size != (1, 1):  # a cell alone has nothing to choose from, so that its bias has no effect
        assert [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_what_fills_the_last_windows_is_as_what_lies_beyond_the_border():
    """A map of 5x6 within windows of 4, against attention written out cell by cell."""
    torch.manual_seed(0)
    block = OCAB(4, 2, 4, 0.5, 2)
    torch.nn.init.normal_(block.relative_position_bias_table)
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(block(x), slow_ocab(block, x), rtol=1e-4, atol=1e-5)


def slow_ocab(block, x):
    """OCAB by loops over windows, heads and cells."""
    cells = x[0].permute(1, 2, 0)
    height, width, channels = cells.shape
    qkv = block.qkv(block.norm1(cells))
    dim, out = channels // 2, torch.zeros_like(cells)
    for row in range(height):
        for column in range(width):
            top, left = row // 4 * 4 - 1, column // 4 * 4 - 1
            for head in range(2):
                query = qkv[row, column, head * dim : (head + 1) * dim]
                logits, values = [], []
                for place in range(36):
                    y, z = top + place // 6, left + place % 6
                    inside = 0 <= y < height and 0 <= z < width
                    part = qkv[y, z] if inside else torch.zeros_like(qkv[0, 0])
                    key = part[channels + head * dim :][:dim]
                    values.append(part[2 * channels + head * dim :][:dim])
                    index = block.index[row % 4 * 4 + column % 4, place]
                    bias = block.relative_position_bias_table[index, head]
                    logits.append((query * key).sum() / dim**0.5 + bias)
                weights = torch.stack(logits).softmax(0)
                out[row, column, head * dim : (head + 1) * dim] = (weights[:, None] * torch.stack(values)).sum(0)
    y = cells + block.proj(out)
    y = y + block.mlp(block.norm2(y))
    return y.permute(2, 0, 1)[None]


def test_every_offset_has_a_bias_of_its_own():
    index = OCAB(4, 2, 4, 0.5, 2).index
    assert sorted(set(index.flatten().tolist())) == list(range(81))


def test_channel_attention_weighs_whole_channels():
    torch.manual_seed(0)
    attention = CAB(6, 3, 2).attention
    x = torch.rand(1, 6, 4, 5) + 0.5
    ratio = attention(x) / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert ((ratio > 0) & (ratio < 1)).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: HAB(10, 4, 8, 0, 2, 3, 2, 0.01),
            ["10 channels", "4 heads", "MODEL.EFPN.WIDTH", "MODEL.EFPN.ATTENTION.HEADS"],
        ),
        (lambda: OCAB(8, 2, 6, 0.5, 2), ["windows of 9", "MODEL.EFPN.ATTENTION", "even"]),
    ],
)
def test_settings_that_do_not_fit(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words)
