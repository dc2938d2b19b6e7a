"""What MODEL.RPN.ASSIGNER and MODEL.RPN.ASSIGNMENT say: which anchors or locations are to find an object.

Legend: N images, G ground-truth boxes of the fullest image, A anchors or locations over all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.config.keys.dense import OWN_RULES
from detframe.errors import InvalidValueError
from detframe.ops import BoxCoder, Matches, Matching
from detframe.ops.assigning import Assigner, scaled
from detframe.ops.ignoring import without_ignored

# Detectors that are what they are by their rule, and what MODEL.RPN.ASSIGNER may say then
_NO_OTHER_RULE = {"ATSS": ("iou", "atss"), "TOOD": ("iou",)}


def rule_of(cfg: ConfigNode) -> str:
    """The rule by which MODEL.RPN.NAME assigns: what MODEL.RPN.ASSIGNER says, and for "iou" the detector's own.

    Raises:
        ValueError: a rule that the detector would not be the same with.
    """
    name, kind = cfg.MODEL.RPN.NAME, cfg.MODEL.RPN.ASSIGNER
    known = _NO_OTHER_RULE.get(name)
    if known is not None and kind not in known:
        raise InvalidValueError(
            f"MODEL.RPN.ASSIGNER cannot be {kind!r} with MODEL.RPN.NAME {name!r}, which is {name} by its own rule: "
            f"leave it {' or '.join(map(repr, known))}, or take MODEL.RPN.NAME 'FCOS' or 'GFL', which know every rule"
        )
    return OWN_RULES.get(name, kind) if kind == "iou" else kind


def make_assigner(cfg: ConfigNode, matching: Matching) -> Assigner:
    """The rule that the config chooses.

    Args:
        matching: of "iou".

    Raises:
        ValueError: a first round of RFLA in which no object takes anything; see also `rule_of`.
    """
    keys = cfg.MODEL.RPN.ASSIGNMENT
    if keys.RFLA_K[0] < 1:
        raise InvalidValueError(
            f"MODEL.RPN.ASSIGNMENT.RFLA_K {tuple(keys.RFLA_K)} must begin with at least 1: the fields that an "
            "object takes first"
        )
    return Assigner(
        kind=rule_of(cfg),
        matching=matching,
        atss_k=keys.ATSS_K,
        nwd_k=keys.NWD_K,
        rfla_k=keys.RFLA_K,
        rfla_shrink=keys.RFLA_SHRINK,
    )


def field_sides(cfg: ConfigNode, strides: Mapping[str, int]) -> list[float]:
    """Sides of the effective receptive fields of the levels, in pixels: half of the theoretical ones (RFLA,
    arXiv:2208.08738, section 3.2).

    Raises:
        ValueError: not as many as there are levels.
    """
    fields = cfg.MODEL.RPN.ASSIGNMENT.RFLA_FIELDS
    if len(fields) != len(strides):
        levels = ", ".join(f"{name} (stride {stride})" for name, stride in strides.items())
        raise InvalidValueError(
            f"MODEL.RPN.ASSIGNMENT.RFLA_FIELDS {tuple(fields)} must be {len(strides)} receptive fields in pixels, one "
            f"of each level: {levels}; () derives them from the network"
        )
    return [field / 2 for field in fields]


@dataclass(frozen=True)
class AnchorAssigner:
    """Assigns the anchors of a head.

    Args:
        coder: says where boxes end.
        per_cell: anchors of a cell.
        shrink_references: box targets are encoded from anchors made smaller by this factor; 1: from the anchors.
    """

    rule: Assigner
    coder: BoxCoder
    per_cell: int
    shrink_references: float

    @classmethod
    def from_config(cls, cfg: ConfigNode, matching: Matching, coder: BoxCoder, per_cell: int) -> AnchorAssigner:
        """As MODEL.RPN.ASSIGNER says."""
        keys = cfg.MODEL.RPN.ASSIGNMENT
        shrinks = cfg.MODEL.RPN.ASSIGNER == "rfla" and keys.RFLA_SHRUNK_TARGETS
        return cls(make_assigner(cfg, matching), coder, per_cell, keys.RFLA_SHRINK if shrinks else 1.0)

    def __call__(
        self,
        gt_boxes: Tensor,
        gt_valid: Tensor,
        anchors: Sequence[Tensor],
        usable: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> Matches:
        """What each anchor is matched to.

        Args:
            gt_boxes, gt_valid: (N, G, 4) and bool (N, G), as in GroundTruth.
            anchors: (A_level, 4) of each level.
            usable: bool (N, A), which anchors an object may take; None: all.
            ignored: (N, I, 4), as in GroundTruth: where anchors that are no object's are no background either.
        """
        extend = self.coder.extend
        levels = [extend(level) for level in anchors]
        matches = self.rule(extend(gt_boxes), gt_valid, levels, self.per_cell, usable)
        return without_ignored(matches, torch.cat(levels), ignored)

    def references(self, anchors: Tensor) -> Tensor:
        """What box targets are encoded from where `anchors` (..., 4) are positive."""
        if self.shrink_references == 1:
            return anchors
        return self.coder.shrink(scaled(self.coder.extend(anchors), self.shrink_references))
