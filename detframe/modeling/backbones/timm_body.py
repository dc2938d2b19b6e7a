"""Backbones of the timm library under our pyramids: CONV_BODY "timm/NAME-FPN", "timm/NAME-EFPN".

Legend: N images, (H, W) size of the padded batch; maps res2..res5 have strides 4, 8, 16, 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.modeling.backbones.efpn import efpn_inputs, extend
from detframe.modeling.backbones.pyramids import PYRAMIDS, build_pyramid, pyramid_inputs
from detframe.registry import BACKBONES, nearest

PREFIX = "timm/"
STAGE_OF_STRIDE = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
STEM = "stem"  # the map of stride 2, which the extended level alone reads
EXTENDED = "EFPN"


class TimmBody(nn.Module):
    """A timm model as a backbone; channels, strides and the bounds of its stages come from its feature info.

    `forward` takes (N, 3, H, W) and returns {"res2": (N, C2, H/4, W/4), ...} for the `stages` asked for, or all it has.

    Args:
        name: of timm, as "convnext_tiny".
        freeze_at: 0 none, 1 what comes before the first of our stages, 2 that and the first stage, ..., 5 all; frozen
            batch norms keep their statistics.
        stages: the maps to return; parameters behind the last are not built.
        stem: `with_stem` also gives the map of stride 2.
        in_channels: of the images.

    Raises:
        ValueError: timm is not installed, has no such model, or the model gives no maps of strides from 4 to 32, or
            none of stride 2 for a stem.
    """

    def __init__(
        self,
        name: str,
        freeze_at: int = 0,
        stages: list[str] | None = None,
        stem: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.name = name
        info = _create(name).feature_info
        self.all_strides = tuple(info.reduction())  # also of maps that are not returned
        # of several maps of one stride the last is the deepest
        index = {STAGE_OF_STRIDE[r]: i for i, r in enumerate(info.reduction()) if r in STAGE_OF_STRIDE}
        index = {stage: i for stage, i in index.items() if stages is None or stage in stages}
        if not index or len(set(info.reduction())) < len(info.reduction()):
            raise InvalidValueError(
                f"timm's {name!r} gives maps of the strides {info.reduction()}; a pyramid needs 4, 8, 16, 32 or "
                "some of them, each once (a plain vision transformer has one stride only)"
            )
        if stem:
            if 2 not in info.reduction():
                raise InvalidValueError(
                    f"timm's {name!r} gives maps of the strides {info.reduction()}; an extended pyramid needs one of "
                    "stride 2 as well, as those of ResNets, MobileNets and EfficientNets (timm/resnet18-EFPN)"
                )
            index = {STEM: info.reduction().index(2), **index}
        self.model = _create(name, tuple(info.out_indices[i] for i in index.values()), in_channels)
        info = self.model.feature_info
        self.has_stem = stem
        self.out_channels = dict(zip(index, info.channels(), strict=True))
        self.strides = dict(zip(index, info.reduction(), strict=True))
        self.stem_channels = self.out_channels.pop(STEM, 0)
        self.strides.pop(STEM, None)
        self.channels_come_last = "NHWC" in str(getattr(self.model, "output_fmt", "NCHW"))
        self.frozen = self._members(freeze_at) if freeze_at else []
        for member in self.frozen:
            for parameter in member.parameters(recurse=False):
                parameter.requires_grad_(False)

    def _members(self, freeze_at: int) -> list[nn.Module]:
        """The modules, in the order of the forward pass, that a number of frozen stages covers."""
        members = list(self.model.named_modules())
        if freeze_at >= 5:
            return [member for _, member in members]
        names = [name.replace("_", ".") for name, _ in members]
        ends = [stage.replace("_", ".") for stage in self.model.feature_info.module_name()][int(self.has_stem) :]
        covered = [i for i, n in enumerate(names) if f"{n}.".startswith(f"{ends[max(freeze_at - 2, 0)]}.")]
        stop = covered[0] if freeze_at == 1 else covered[-1] + 1
        return [member for _, member in members[:stop]]

    def blocks(self) -> dict[str, list[nn.Module]]:
        """The members of chains of blocks that belong to each stage; none where timm builds a model in another way."""
        members = list(self.model.named_modules())
        found = set(_chained(self.model))
        out: dict[str, list[nn.Module]] = {name: [] for name in self.strides}
        for place, (_, member) in enumerate(members):
            stage = next((name for name, end in zip(out, self._ends(), strict=True) if place <= end), None)
            if stage is not None and member in found:
                out[stage].append(member)
        return out

    def _ends(self) -> list[int]:
        """Of each stage, the place of its last module in the order of the forward pass."""
        names = [name.replace("_", ".") for name, _ in self.model.named_modules()]
        ends = [stage.replace("_", ".") for stage in self.model.feature_info.module_name()][int(self.has_stem) :]
        return [max((i for i, n in enumerate(names) if f"{n}.".startswith(f"{end}.")), default=-1) for end in ends]

    def depth_order(self) -> list[list[str]]:
        """The parameters of each layer, from the images upwards, as timm divides the model for its own layer decay.

        Raises:
            ValueError: timm knows no order of the layers of this model.
        """
        from timm.models import group_parameters

        whole = _create_whole(self.name)
        if not hasattr(whole, "group_matcher"):
            raise InvalidValueError(f"timm knows no order of the layers of {self.name!r}; set SOLVER.LAYER_DECAY 1")
        layer_of = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
        # features_only writes names with "_" for "." and may put the model one level deeper
        layer_of = {name.replace("_", "."): layer for name, layer in layer_of.items()}
        layers: dict[int, list[str]] = {}
        for name, _ in self.model.named_parameters():
            plain = name.replace("_", ".")
            layer = layer_of.get(plain, layer_of.get(plain.removeprefix("model.")))
            if layer is None:
                raise InvalidValueError(
                    f"timm does not say to which layer of {self.name!r} {name!r} belongs; set SOLVER.LAYER_DECAY 1"
                )
            layers.setdefault(layer, []).append(f"model.{name}")
        return [layers[layer] for layer in sorted(layers)]

    def train(self, mode: bool = True) -> TimmBody:
        """Train or evaluate; what is frozen stays in evaluation."""
        super().train(mode)
        for member in self.frozen:
            if isinstance(member, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)):
                member.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.with_stem(x)[1]

    def with_stem(self, x: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The map of stride 2, where there is one, and what `forward` gives."""
        maps = self.model(x)
        if self.channels_come_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        stem = maps.pop(0) if self.has_stem else None
        return stem, dict(zip(self.strides, maps, strict=True))


def _chained(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of sequences that are made of several modules: the blocks of a network."""
    sequence = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        nested = isinstance(child, (nn.Sequential, nn.ModuleList))
        if sequence and not nested and any(child.children()):
            yield child
        else:
            yield from _chained(child)


def _create_whole(name: str) -> Any:
    """A timm model as it is, with its classifier and without memory for weights."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name)


def _create(name: str, out_indices: tuple[int, ...] | None = None, in_channels: int = 3) -> Any:
    """A timm model that returns maps, with random weights."""
    try:
        import timm
    except ImportError as error:
        raise InvalidValueError(f"{PREFIX}{name} needs the timm library: pip install 'detframe[timm]'") from error
    if not timm.is_model(name):
        raise InvalidValueError(
            f"timm {timm.__version__} has no model {name!r}; {nearest(name, timm.list_models())} "
            "(timm.list_models('*resnet*') lists those of a kind)"
        )
    wanted: dict[str, Any] = {"features_only": True, "pretrained": False, "in_chans": in_channels}
    if out_indices is not None:
        wanted["out_indices"] = out_indices
    try:
        # windowed transformers check the size of images unless told not to; other models do not know the word
        return timm.create_model(name, strict_img_size=False, **wanted)
    except TypeError:
        return timm.create_model(name, **wanted)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise InvalidValueError(f"timm's {name!r} cannot be built as a backbone with feature maps ({error})") from error


@BACKBONES.register(PREFIX)
def build_timm_pyramid(cfg: ConfigNode) -> nn.Module:
    """The timm model between "timm/" and the suffix of CONV_BODY under the pyramid of that suffix.

    Raises:
        ValueError: a name without the suffix of a pyramid, and the errors of TimmBody.
    """
    conv_body = cfg.MODEL.BACKBONE.CONV_BODY
    known = (*PYRAMIDS, EXTENDED)
    suffix = max((s for s in known if conv_body.endswith(f"-{s}")), key=len, default="")
    if not suffix:
        raise InvalidValueError(f"{conv_body!r} must end with a pyramid: " + ", ".join(f"-{s}" for s in known))
    name, channels = conv_body.removeprefix(PREFIX).removesuffix(f"-{suffix}"), cfg.INPUT.CHANNELS
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT
    if suffix == EXTENDED:
        body = TimmBody(name, freeze_at, efpn_inputs(cfg), stem=True, in_channels=channels)
        return extend(cfg, body, body.stem_channels)
    whole = {stage: stride for stride, stage in STAGE_OF_STRIDE.items()}
    body = TimmBody(name, freeze_at, pyramid_inputs(cfg, whole), in_channels=channels)
    return build_pyramid(cfg, body, body.out_channels, body.strides)
