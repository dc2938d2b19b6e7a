"""What became of every parameter of a model and of a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from detframe.errors import InvalidValueError, listed

OUTCOMES = ("loaded", "reinitialised", "missing", "unused")
_SHOWN, _SHOWN_IN_ERROR = 8, 5


def training_only(name: str) -> bool:
    """Whether a value is of what only our training keeps: a running mean of RetinaNet's normaliser, and what losses
    count."""
    return name == "rpn.loss_normalizer" or name.startswith("roi_heads.cls_loss.")


@dataclass
class LoadReport:
    """What `load_weights` did: parameter names by outcome."""

    source: str
    kind: str
    loaded: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)  # "name: checkpoint shape -> model shape", or classes
    missing: list[str] = field(default_factory=list)  # in the model, not in the checkpoint
    unused: list[str] = field(default_factory=list)  # in the checkpoint, not in the model
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))  # numbers of values by outcome
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The report as text: notes, then a line an outcome, with names where something did not load."""
        total = max(sum(self.counts[k] for k in OUTCOMES[:3]), 1)
        lines = [f"weights from {self.source} ({self.kind})", *(f"  {note}" for note in self.notes)]
        for outcome in OUTCOMES:
            names, values = getattr(self, outcome), self.counts[outcome]
            share = "" if outcome == "unused" else f"  {100 * values / total:5.1f} % of the model"
            lines.append(f"  {outcome:14s} {len(names):4d} tensors  {values:12,d} values{share}")
            if outcome != "loaded":
                lines += [f"      {line}" for line in _listed(names)]
        return "\n".join(lines)

    def check_complete(self, other_classes: bool = False) -> None:
        """Whether the model is the checkpoint's.

        Args:
            other_classes: outputs for another number of classes may have kept their initial values.

        Raises:
            ValueError: something that inference uses was not filled; the message names it.
        """
        lacking = [name for name in self.missing if not training_only(name)]
        # a line says so where it is because of the classes
        lacking += [line for line in self.reinitialised if not (other_classes and " classes" in line)]
        if lacking:
            raise InvalidValueError(
                f"{self.source} is not the checkpoint that this config needs: it lacks, or has in another shape, "
                f"{listed(lacking, _SHOWN_IN_ERROR)}"
            )


def _listed(names: Sequence[str]) -> list[str]:
    """The names, or where they are many, the parts that they are of."""
    if len(names) <= _SHOWN:
        return list(names)
    parts = Counter(_part(name) for name in names)
    lines = [f"{part}: {count} tensors" if count > 1 else part for part, count in parts.most_common(_SHOWN)]
    rest = len(parts) - len(lines)
    return [*lines, f"... and {rest} more parts"] if rest else lines


def _part(name: str) -> str:
    """ "rpn.head" of "rpn.head.cls_logits.weight", "backbone.fpn.inner_blocks" of its blocks; else the name itself."""
    parts = name.partition(":")[0].split(".")
    depth = 3 if parts[0] == "backbone" else 2
    return ".".join(parts[: min(depth, len(parts) - 1)]) or name
