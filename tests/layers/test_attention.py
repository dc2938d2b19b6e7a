"""Window attention against attention written out cell by cell."""

import pytest
import torch

from detframe.layers import attention
from detframe.layers.attention import SwinBlock, WindowAttention, attend, from_windows, to_windows


def slow_attention(layer, x, shift):
    """Window attention of (H, W, C) by loops: a cell looks at those that share its window of the shifted grid."""
    height, width, channels = x.shape
    qkv, dim = layer.qkv(x), channels // layer.heads
    out = torch.zeros_like(x)
    side = layer.window
    for row in range(height):
        for column in range(width):
            window = ((row - shift) // side, (column - shift) // side)
            others = [
                (y, z)
                for y in range(height)
                for z in range(width)
                if ((y - shift) // side, (z - shift) // side) == window
            ]
            for head in range(layer.heads):
                at = slice(head * dim, (head + 1) * dim)
                logits, values = [], []
                for y, z in others:
                    key = qkv[y, z, channels:][at]
                    offset = (row - y + side - 1) * (2 * side - 1) + column - z + side - 1
                    bias = layer.relative_position_bias_table[offset, head]
                    logits.append((qkv[row, column][at] * key).sum() / dim**0.5 + bias)
                    values.append(qkv[y, z, 2 * channels :][at])
                out[row, column, at] = (torch.stack(logits).softmax(0)[:, None] * torch.stack(values)).sum(0)
    return layer.proj(out)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 6), (5, 12), (3, 2)])
def test_it_equals_attention_cell_by_cell(size, shift):
    torch.manual_seed(0)
    layer = WindowAttention(6, 2, 4)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(2, *size, 6)
    found = layer(x, shift)
    for i in range(2):
        torch.testing.assert_close(found[i], slow_attention(layer, x[i], shift), rtol=1e-4, atol=1e-5)


def test_a_window_does_not_see_another():
    torch.manual_seed(0)
    layer = WindowAttention(4, 2, 4)
    x = torch.randn(1, 8, 8, 4)
    changed = x.clone()
    changed[:, 4:, 4:] += 1
    before, after = layer(x), layer(changed)
    assert torch.equal(before[:, :4], after[:, :4]) and torch.equal(before[:, 4:, :4], after[:, 4:, :4])
    assert not torch.allclose(before[:, 4:, 4:], after[:, 4:, 4:])


def test_windows_and_back():
    x = torch.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    windows = to_windows(x, 4)
    assert windows.shape == (2, 6, 16, 3)
    assert torch.equal(windows[0, 4], x[0, 4:8, 4:8].reshape(16, 3))
    assert torch.equal(from_windows(windows, 4, 8, 12), x)


@pytest.mark.parametrize("size", [(1, 1), (4, 9), (13, 7)])
def test_a_block_keeps_the_shape_and_every_parameter_learns(size):
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, 2, 2.0)
    x = torch.randn(2, 8, *size)
    out = block(x)
    assert out.shape == x.shape and torch.equal(block(x), out)
    torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last)), out, rtol=1e-4, atol=1e-5)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    if size != (1, 1):  # a cell alone has nothing to choose from, so that its bias has no effect
        assert [name for name, p in block.named_parameters() if not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(1, 1), (5, 6), (9, 7)])
def test_the_content_of_the_padding_has_no_influence(size, shift, monkeypatch):
    torch.manual_seed(0)
    layer = WindowAttention(6, 2, 4)
    x = torch.randn(2, *size, 6)
    expected = layer(x, shift)
    pad, filled = attention.F.pad, []

    def pad_with_a_large_value(x, widths):
        filled.append(widths)
        return pad(x, widths, value=1e3)

    monkeypatch.setattr(attention.F, "pad", pad_with_a_large_value)
    torch.testing.assert_close(layer(x, shift), expected)
    assert len(filled) == 1 and any(filled[0])


@pytest.mark.parametrize("windows", [False, True], ids=["one bias", "a bias for each window"])
def test_attention_of_folded_windows_equals_its_formula(windows):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 3, 2, 6, 5), torch.randn(2, 3, 2, 6, 5)
    bias = torch.randn(3, 2, 4, 6) if windows else torch.randn(2, 4, 6)
    expected = (query @ key.transpose(-1, -2) / 5**0.5 + bias).softmax(-1) @ value
    torch.testing.assert_close(attend(query, key, value, bias), expected)


def test_initial_values():
    """Linear weights and bias tables of deviation 0.02, biases 0, norms 1 and 0."""
    torch.manual_seed(0)
    for name, value in SwinBlock(64, 4, 8, 4, 2.0).named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif name.startswith("norm"):
            assert (value == 1).all(), name
        else:
            assert 0.018 < value.std() < 0.022 and abs(value.mean()) < 0.002, name


@pytest.mark.parametrize("heads", [0, -2, 3])
def test_heads_that_do_not_fit(heads):
    with pytest.raises(
        ValueError, match=rf"8 channels \(MODEL.EFPN.WIDTH\).* {heads} heads \(MODEL.EFPN.ATTENTION.HEADS\)"
    ):
        WindowAttention(8, heads, 4)
