"""Names of ResNet bodies as Caffe2, MSRA and Detectron write them, and as detectron2 writes bodies alone.

Facts: the blobs of the published checkpoints (conv1_w, res_conv1_bn_s, res2_0_branch2a_w, res2_0_branch1_bn_b).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detframe.errors import InvalidValueError

MERGED = "Caffe2 body, norms merged"
_BODY = "backbone.body."
_MEMBERS = {"branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
# what a blob's name ends in -> the tensor of a norm; _s and _b are those of group norms and of merged batch norms
_NORM_TENSORS = {
    "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias",
    "rm": "running_mean", "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
_STEM = re.compile(r"(?:res_)?conv1_(?:(bn|gn)_)?(\w+)")
_BLOCK = re.compile(r"res([2-5])_(\d+)_(branch1|branch2[abc])_(?:(bn|gn)_)?(\w+)")
_CLASSIFIER = re.compile(r"(?:pred|fc1000|linear)_[wb]")


def caffe2_body(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A Caffe2 body with batch norms that have statistics, or with group norms; None where it is none."""
    return None if _is_merged(state) else _renamed(state)


def caffe2_merged_body(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A Caffe2 body whose batch norms are affine maps, the statistics being merged into them.

    The statistics are then mean 0 and variance 1, up to the eps that the model will add, see `exact_affine`.
    """
    out = _renamed(state) if _is_merged(state) else None
    if out is None:
        return None
    for key in [key for key in out if _is_norm_scale(key)]:
        out.setdefault(key.replace(".weight", ".running_mean"), torch.zeros_like(out[key]))
        out.setdefault(key.replace(".weight", ".running_var"), torch.ones_like(out[key]))
    return out


def exact_affine(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Merged norms with the variance 1 - eps of each layer, so that scale / sqrt(variance + eps) is the scale itself.

    Raises:
        ValueError: a norm of the model computes statistics; with those of a batch, the merged maps are wrong.
    """
    out = dict(state)
    for name, module in model.named_modules():
        key = f"{name}.running_var"
        if key not in state:
            continue
        if not isinstance(module, FrozenBatchNorm2d):
            raise InvalidValueError(
                f"the norms of these weights are merged into affine maps, but {name} of the model is a "
                f"{type(module).__name__} that computes its own statistics; set MODEL.RESNETS.NORM FrozenBN"
            )
        out[key] = torch.full_like(state[key], 1.0 - module.eps)
    return out


def detectron2_body(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A body alone as detectron2 publishes it (stem.conv1.weight), named as inside its detectors."""
    if "stem.conv1.weight" not in state:
        return None
    return {f"backbone.bottom_up.{k}": v for k, v in state.items() if not k.startswith(("linear.", "stem.fc."))}


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    if "conv1_w" not in state:
        return None
    kept = [key for key in state if not key.endswith("_momentum") and not _CLASSIFIER.fullmatch(key)]
    return {_name(key): state[key] for key in kept}


def _name(key: str) -> str:
    if match := _STEM.fullmatch(key):
        return f"{_BODY}{_tensor('conv1', 'bn1', match[1], match[2])}"
    if match := _BLOCK.fullmatch(key):
        member = _MEMBERS.get(match[3], "")
        conv, norm = (member, member.replace("conv", "bn")) if member else ("downsample.0", "downsample.1")
        return f"{_BODY}layer{int(match[1]) - 1}.{match[2]}.{_tensor(conv, norm, match[4], match[5])}"
    return key


def _tensor(conv: str, norm: str, kind: str | None, ending: str) -> str:
    if kind:
        return f"{norm}.{_NORM_TENSORS.get(ending, ending)}"
    return f"{conv}.{ {'w': 'weight', 'b': 'bias'}.get(ending, ending) }"


def _is_norm_scale(key: str) -> bool:
    return re.search(r"\.(?:bn\d|downsample\.1)\.weight$", key) is not None


def _is_merged(state: Mapping[str, Tensor]) -> bool:
    has_statistics = any(key.endswith(("_bn_rm", "_bn_riv", "_bn_running_mean", "_bn_running_var")) for key in state)
    return not has_statistics and any(key.endswith(("_bn_s", "_bn_gamma")) for key in state)
