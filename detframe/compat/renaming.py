"""Names of parameters in two programs, as pairs that are read from left to right and written from right to left.

A pair is (theirs, ours). `{i}` in both is a number; `{i-1}`, `{2*i}`, `{2*i+1}` are numbers that follow from it.
`{p=w|b}` is a word of a list, and in the other name the word at the same place of its list, or the same word where that
says no more than `{p}`. `$first` is filled in for a checkpoint. What ends in a point is the beginning of a name, whose
rest is kept; anything else is a whole name. Of all pairs the first that fits counts: where a program had several names
for one of ours, the one that is to be written stands first.

Beside the names: layouts of rows that several programs share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Template

from torch import Tensor, nn

from detframe.modeling.rpn.anchors import AnchorGenerator

State = dict[str, Tensor]
Pair = tuple[str, str]
Grid = tuple[int, int]  # sizes and aspect ratios of a cell's anchors

RPN_OUTPUTS = ("rpn.head.cls_logits.", "rpn.head.bbox_pred.")
DENSE_OUTPUTS = ("rpn.head.classification_head.cls_logits.", "rpn.head.regression_head.bbox_reg.")
PREDICTOR = "roi_heads.box_predictor."
MASKS = "roi_heads.mask.predictor.mask_fcn_logits."
RES5 = "roi_heads.box_head.layer4."
_IN_BODY = "backbone.body.layer4."
_BOXES = ("rpn.head.bbox_pred.bias", "rpn.head.regression_head.bbox_reg.bias")
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_FIELD = re.compile(r"\{(?:(\d+)\*)?([a-z])([+-]\d+)?(?:=([^}]*))?\}")


@dataclass(frozen=True)
class _Field:
    """A place in a name: the number `factor` * i + `offset`, or the i-th of the `words`."""

    name: str
    factor: int
    offset: int
    words: tuple[str, ...]

    def pattern(self) -> str:
        return f"(?P<{self.name}>{'|'.join(map(re.escape, self.words)) or '[0-9]+'})"

    def value(self, text: str) -> int | None:
        """i; None where the number is none of these."""
        if self.words:
            return self.words.index(text)
        value, rest = divmod(int(text) - self.offset, self.factor)
        return None if rest else value

    def text(self, value: int) -> str | None:
        number = self.factor * value + self.offset
        return self.words[value] if self.words else str(number) if number >= 0 else None


class _Side:
    """One name of a pair."""

    def __init__(self, template: str, words: Mapping[str, tuple[str, ...]]) -> None:
        self.fields: dict[str, _Field] = {}
        pattern, self.literals = "", _FIELD.sub("{}", template).split("{}")
        for literal, match in zip(self.literals, [*_FIELD.finditer(template), None], strict=True):
            pattern += re.escape(literal)
            if match is not None:
                own = tuple(match[4].split("|")) if match[4] else words.get(match[2], ())
                self.fields[match[2]] = _Field(match[2], int(match[1] or 1), int(match[3] or 0), own)
                pattern += self.fields[match[2]].pattern()
        self.pattern = re.compile(pattern + ("(?P<rest>.*)" if template.endswith(".") else ""))

    def values(self, name: str) -> tuple[dict[str, int], str] | None:
        """What stands in the places of a name, and its rest; None where the name is another."""
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        found = match.groupdict()
        rest = found.pop("rest", "")
        values = {key: self.fields[key].value(text) for key, text in found.items()}
        whole = {key: value for key, value in values.items() if value is not None}
        return (whole, rest) if len(whole) == len(values) else None

    def name(self, values: Mapping[str, int], rest: str) -> str | None:
        """The name with these values; None where there is no such name."""
        texts = [field.text(values[key]) for key, field in self.fields.items()]
        if None in texts:
            return None
        return "".join(f"{literal}{text}" for literal, text in zip(self.literals, [*texts, rest], strict=True))


class Renaming:
    """Pairs (theirs, ours), see above.

    Args:
        given: what the words after $ stand for.
    """

    def __init__(self, pairs: Iterable[Pair], **given: object) -> None:
        self._pairs: list[tuple[_Side, _Side]] = []
        for pair in pairs:
            theirs, ours = (Template(side).substitute(given) for side in pair)
            words = {m[2]: tuple(m[4].split("|")) for m in _FIELD.finditer(ours + theirs) if m[4]}
            self._pairs.append((_Side(theirs, words), _Side(ours, words)))

    def read(self, state: Mapping[str, Tensor]) -> State:
        """Their names in ours; what no pair fits keeps its name."""
        return {self._renamed(name, 0) or name: value for name, value in state.items()}

    def write(self, state: Mapping[str, Tensor]) -> State:
        """Our names in theirs; what no pair fits is left out."""
        renamed = {name: self._renamed(name, 1) for name in state}
        return {theirs: state[name] for name, theirs in renamed.items() if theirs is not None}

    def _renamed(self, name: str, side: int) -> str | None:
        for pair in self._pairs:
            found = pair[side].values(name)
            renamed = None if found is None else pair[1 - side].name(*found)
            if renamed is not None:
                return renamed
        return None


def without_wrappers(state: Mapping[str, Tensor]) -> State:
    """Names without what DataParallel ("module."), torch.compile ("_orig_mod.") and an object around ("model.") add."""
    out = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    while out and all(key.startswith("model.") for key in out):
        out = {_WRAPPERS.sub("", key.removeprefix("model.")): value for key, value in out.items()}
    return {key.replace("._orig_mod.", "."): value for key, value in out.items()}


def lowest_number(state: Iterable[str], pattern: str, default: int) -> int:
    """The lowest of the numbers that the group of a pattern finds at the beginning of names: the first level, say."""
    return min((int(m[1]) for name in state if (m := re.match(pattern, name))), default=default)


def without_background(state: Mapping[str, Tensor]) -> State:
    """Box deltas and masks, in our names, without the rows of the background, of a program that keeps them first.

    Class-agnostic deltas are those of background and foreground there; a single mask is class-agnostic.
    """
    out = dict(state)
    classes = state.get(f"{PREDICTOR}cls_score.bias")
    for name in ("weight", "bias"):
        deltas, masks = f"{PREDICTOR}bbox_pred.{name}", f"{MASKS}{name}"
        if deltas in state:
            out[deltas] = state[deltas][4:]
        if masks in state and classes is not None and len(state[masks]) == len(classes):
            out[masks] = state[masks][1:]
    return out


def res5_where_it_stands(state: Mapping[str, Tensor], target: Iterable[str]) -> State:
    """The last stage of a backbone under the name that it has in a detector whose box head it is."""
    if not any(name.startswith(RES5) for name in target):
        return dict(state)
    return {name.replace(_IN_BODY, RES5): value for name, value in state.items()}


def res5_in_the_body(state: Mapping[str, Tensor]) -> State:
    """The last stage of the backbone under its name there, of a detector whose box head it is."""
    return {name.replace(RES5, _IN_BODY): value for name, value in state.items()}


# ------------------------------------------------------------------------------------------------ order of anchors
# The rows of an RPN's and of RetinaNet's outputs lie in the order of a cell's anchors. Ours run over the sizes fastest,
# as those of torchvision and maskrcnn-benchmark. detectron2's run over the aspect ratios fastest, and so do those of
# Detectron's RetinaNet. A checkpoint does not say how many are sizes; the model that it goes into knows.


def anchor_grid(model: nn.Module | None) -> Grid | None:
    """How many sizes and aspect ratios the anchors of a cell have; None of a model without anchors."""
    for module in () if model is None else model.modules():
        if isinstance(module, AnchorGenerator):
            return module.num_sizes, module.num_ratios
    return None


def sizes_fastest(state: Mapping[str, Tensor], grid: Grid | None, outputs: tuple[str, ...]) -> State:
    """The outputs whose names begin as `outputs`, from an order over the ratios fastest into ours.

    Outputs for another number of anchors stay as they are: they have no place in the model.
    """
    out = dict(state)
    rows = [len(state[name]) for name in _BOXES if name in state]
    if grid is None or rows != [4 * grid[0] * grid[1]]:
        return out
    for name, value in state.items():
        if name.startswith(outputs):
            out[name] = value.unflatten(0, (*grid, -1)).transpose(0, 1).flatten(0, 2)
    return out


def ratios_fastest(state: Mapping[str, Tensor], grid: Grid | None, outputs: tuple[str, ...]) -> State:
    """The way back."""
    return sizes_fastest(state, None if grid is None else (grid[1], grid[0]), outputs)
