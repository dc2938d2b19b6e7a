"""Input size, anchors and regions from the objects' sizes and shapes; pure functions of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detframe.recipes.facts import DataFacts

ROUND_TO = 32  # pixels: the stride of the coarsest map of the backbone
LEVELS = 5  # p2..p6
SMALL_SIDE, TYPICAL_SIDE = 16.0, 32.0  # pixels after resizing that the smallest tenth and the median should have
MOST_ENLARGED = 2.0  # beyond that an image is only blurred
COARSEST_ANCHOR, FINEST_ANCHOR = 32.0, 16.0  # of p2: the papers' 8 strides, and 4, below which training suffers
# The finest anchor over the usual side of the smallest class. Aerial cars of 20 pixels (images of 448, 250 steps) gave
# AP 12.2 with a finest anchor of 16, 13.6 with 20, 14.4 with 28
ANCHOR_FACTOR = 1.2
MOST_ASPECT = 2.5  # of the longer to the shorter side of the input
STEP_OF_RATIOS = 1.4  # two anchors of a cell that differ by less are one


@dataclass(frozen=True)
class InputSize:
    """INPUT.MIN_SIZE and MAX_SIZE, and why."""

    shorter: int
    longer: int
    reason: str


def input_size(facts: DataFacts, lowest: int, highest: int) -> InputSize:
    """The size at which small objects become large enough, within what the model is made for.

    Args:
        lowest, highest: of the shorter side.
    """
    original = float(np.median(facts.sizes_hw.min(axis=1)))
    sides = np.sqrt(facts.widths * facts.heights) * (original / facts.sizes_hw.min(axis=1))[facts.owners]
    small, typical = facts.small(sides), float(np.median(sides))
    scale = max(SMALL_SIDE / small, TYPICAL_SIDE / typical)
    wanted = math.ceil(scale * original / ROUND_TO) * ROUND_TO
    most = max(ROUND_TO, int(min(highest, original * MOST_ENLARGED)) // ROUND_TO * ROUND_TO)
    shorter = min(max(wanted, lowest), most)
    # a bound that keeps the scale where images have one longer side and many shorter ones, as tiles and crops have
    longest = float(np.quantile(facts.sizes_hw.max(axis=1), 0.9)) * shorter / original
    longer = math.ceil(min(max(longest, shorter), MOST_ASPECT * shorter) / ROUND_TO) * ROUND_TO
    after = [side * shorter / original for side in (small, typical)]
    reason = (
        f"{facts.views} of {original:.0f} pixels (shorter side) hold objects of {typical:.0f}, the small ones of "
        f"{small:.0f}; at this size they have {after[1]:.0f} and {after[0]:.0f}"
    )
    if wanted > most:
        reason += f". {wanted} would make small ones larger: {_limit(highest, original)}"
    return InputSize(shorter, longer, reason)


def _limit(highest: int, original: float) -> str:
    if original * MOST_ENLARGED < highest:
        return f"images are enlarged {MOST_ENLARGED:g} times at most"
    return f"{highest} is what this model does in reasonable time here, INPUT.MIN_SIZE_TRAIN and _TEST change it"


@dataclass(frozen=True)
class Anchors:
    """Sizes of the levels from the finest, ratios, and why."""

    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    sizes_reason: str
    ratios_reason: str


def anchors(facts: DataFacts, shorter: int, longer: int) -> Anchors:
    """Anchors that begin at the usual size of the class with the smallest objects, and reach the largest."""
    sides = facts.sides(shorter, longer)
    small, large = facts.small(sides, 0.5), float(np.quantile(sides, 0.98))
    most = max(FINEST_ANCHOR, min(COARSEST_ANCHOR, longer / 2 ** (LEVELS - 1) if longer else COARSEST_ANCHOR))
    finest = round(min(max(ANCHOR_FACTOR * small, FINEST_ANCHOR), most))
    growth = 2.0
    if large > finest * 2 ** (LEVELS - 1):
        growth = min((large / finest) ** (1 / (LEVELS - 1)), 2.6)
    sizes = tuple(round(finest * growth**level) for level in range(LEVELS))
    bounds = f"not above {most:.0f}" if most <= FINEST_ANCHOR else f"from {FINEST_ANCHOR:g} to {most:.0f}"
    why = (
        f"after resizing, objects of the smallest class have a side of {small:.0f}, large ones of {large:.0f}; the "
        f"finest level begins at {ANCHOR_FACTOR:g} times the former, but {bounds}"
    )
    ratios, low, high = _ratios(facts)
    shapes = f"eight of ten objects have a height over their width from {low:.2f} to {high:.2f}"
    return Anchors(sizes, ratios, why, shapes)


def _ratios(facts: DataFacts) -> tuple[tuple[float, ...], float, float]:
    """Three heights over widths, evenly from one end to the other and at least a step apart; and the two quantiles."""
    low, high = (float(np.clip(np.quantile(facts.ratios(), q), 0.1, 10.0)) for q in (0.1, 0.9))
    middle = math.sqrt(low * high)
    below, above = min(low, middle / STEP_OF_RATIOS), max(high, middle * STEP_OF_RATIOS)
    return tuple(float(f"{value:.2g}") for value in (below, middle, above)), low, high


def canonical_size(finest: float) -> int:
    """POOLER_CANONICAL_SIZE for anchors that begin at `finest`: 224 belongs to 32 (arXiv:1612.03144, equation 1)."""
    return round(224 * finest / 32)
