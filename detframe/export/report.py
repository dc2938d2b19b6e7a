"""What an export leaves beside its file: the evidence, for programs (JSON) and for people (Markdown)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detframe.backends import ModelCard
from detframe.export.comparing import KINDS, Tally
from detframe.export.evidence import Evidence
from detframe.texts import counted

_SHOWN = 20  # differences that the report lists
_WORDS = {"boxes": "box", "scores": "score", "masks": "mask", "keypoints": "keypoint"}


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from PyTorch.

    Args:
        ap: difference in AP (0 to 100).
        near: pixels of boxes and keypoints, and scores; None: whatever it is.
    """

    ap: float = 0.1
    near: float | None = 1e-3


@dataclass
class ExportReport:
    """An exported file with its evidence.

    Args:
        path: the file.
        files: name -> (bytes, SHA-256) of what belongs to it.
        format: what it is.
        runtime: what has run it.
        card: what it says of itself.
        data: what the validation images were; "" where there were none.
        warnings: what a reader must know.
        details: what else a precision has to say.
    """

    path: Path
    format: str
    runtime: str
    card: ModelCard
    tolerance: Tolerance
    evidence: Evidence
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    data: str = ""
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, tuple[float, float]]:
        """The metrics by which the file is judged, of PyTorch and of the file: AP of each kind, else all there are."""
        all_of_them = self.evidence.metrics
        main = {key: value for key, value in all_of_them.items() if key.endswith("/AP") and key.count("/") == 1}
        return main or all_of_them

    def problems(self) -> list[str]:
        """Why the file is not what PyTorch computes; none where it is."""
        out = list(self.evidence.faults)
        for check in self.evidence.checks:
            counts = check.counted
            if counts:
                worst = counts[0]
                out.append(
                    f"{check.name}: {counted(len(counts), 'difference')} between {check.pytorch} detections of PyTorch "
                    f"and {check.file} of the file, the largest in {worst.image}: {worst.what} "
                    f"({worst.size:.4g}; tolerance {self.tolerance.near:g})"
                )
        for key, (pytorch, file) in self.metrics.items():
            if _apart(pytorch, file, self.card.precision) > self.tolerance.ap:
                out.append(
                    f"{key} is {pytorch:.2f} in PyTorch and {file:.2f} in the file (tolerance {self.tolerance.ap:g})"
                )
        return out

    def worst(self, kind: str) -> float:
        """The largest difference of a kind ("boxes", "scores", "masks", "keypoints") in all checks."""
        return max((check.worst.get(kind, 0.0) for check in self.evidence.checks), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it; what is not a number is null."""
        seconds = self.evidence.seconds
        values = {
            "file": self.path.name,
            "format": self.format,
            "precision": self.card.precision,
            "runtime": self.runtime,
            "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in self.files.items()},
            "card": json.loads(self.card.to_json()),
            "data": self.data,
            "warnings": list(self.warnings),
            "tolerance": asdict(self.tolerance),
            "metrics": {key: {"pytorch": a, "file": b} for key, (a, b) in self.evidence.metrics.items()},
            "judged_by": list(self.metrics),
            "worst": {kind: self.worst(kind) for kind in KINDS if any(kind in c.worst for c in self.evidence.checks)},
            "seconds_per_image": None if seconds is None else {"pytorch": seconds[0], "file": seconds[1]},
            "checks": [_check_dict(check) for check in self.evidence.checks],
            "problems": self.problems(),
            "details": dict(self.details),
        }
        return _finite(values)  # type: ignore[no-any-return]

    def summary(self) -> str:
        """The result in a few lines."""
        lines = [f"{name}: {size / 2**20:.1f} MB" for name, (size, _) in self.files.items()]
        lines += [f"{key}: PyTorch {_number(a)}, the file {_number(b)}" for key, (a, b) in self.metrics.items()]
        apart = [
            f"{_WORDS[kind]} {self.worst(kind):.2g}{f' {unit}' if unit else ''}"
            for kind, unit in KINDS.items()
            if any(kind in check.worst for check in self.evidence.checks)
        ]
        detections = sum(check.pytorch for check in self.evidence.checks)
        lines.append(f"largest differences in {counted(detections, 'detection')}: {', '.join(apart)}")
        lines += [f"of these, {line}" for line in self._excused()]
        if self.evidence.seconds is not None:
            pytorch, file = self.evidence.seconds
            lines.append(f"median per image: PyTorch {1000 * pytorch:.0f} ms, the file {1000 * file:.0f} ms")
        return "\n".join(lines)

    def _excused(self) -> list[str]:
        reasons: dict[str, int] = {}
        for check in self.evidence.checks:
            for reason, number in check.reasons().items():
                reasons[reason] = reasons.get(reason, 0) + number
        return [f"{counted(number, 'detection')} beyond the tolerance: {reason}" for reason, number in reasons.items()]

    def markdown(self) -> str:
        """The report for people."""
        return "\n".join(_markdown(self)) + "\n"


def _markdown(report: ExportReport) -> Iterator[str]:
    card, problems = report.card, report.problems()
    yield f"# {report.path.name}"
    yield ""
    yield (
        f"{report.format}, {card.precision}, run by {report.runtime}. "
        + ("**It is not what PyTorch computes.**" if problems else "It agrees with PyTorch within the tolerance.")
    )
    yield from (f"\n**{text}**" for text in report.warnings)
    yield from (f"\n- {text}" for text in problems)
    yield "\n## What was compared\n"
    columns = ("check", "images", "detections", "largest differences", "without a partner", "beyond the tolerance")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    yield from map(_row, report.evidence.checks)
    if report.evidence.metrics:
        yield f"\n## Scores on {report.data}\n"
        yield "| metric | PyTorch | file | difference |\n|---|---|---|---|"
        for key, (pytorch, file) in report.evidence.metrics.items():
            yield f"| {key} | {_number(pytorch)} | {_number(file)} | {_number(file - pytorch)} |"
    yield from _listed(report)
    yield "\n## The file\n"
    yield from _facts(report)


def _row(check: Tally) -> str:
    if check.skipped:
        return f"| {check.name} | | | not made: {check.skipped} | | |"
    apart = ", ".join(
        f"{_WORDS[kind]} {check.worst[kind]:.2g} {unit}" for kind, unit in KINDS.items() if kind in check.worst
    )
    excused = ", ".join(f"{number} {reason}" for reason, number in check.reasons().items())
    beyond = ", ".join(part for part in (f"**{len(check.counted)}**" if check.counted else "", excused) if part)
    return (
        f"| {check.name} | {check.images} | {check.pytorch}, {check.file} | {apart.strip()} | "
        f"{check.only_pytorch} of PyTorch, {check.only_file} of the file | {beyond or 'none'} |"
    )


def _listed(report: ExportReport) -> Iterator[str]:
    differences = [one for check in report.evidence.checks for one in (*check.counted, *check.differences)]
    unique = list({id(one): one for one in differences}.values())
    if not unique:
        return
    yield "\n## Detections beyond the tolerance\n"
    yield "| image | what | by | why it does not count |\n|---|---|---|---|"
    for one in unique[:_SHOWN]:
        yield f"| {one.image} | {one.what} | {one.size:.4g} | {one.reason or '**it counts**'} |"
    if len(unique) > _SHOWN:
        yield f"\nand {len(unique) - _SHOWN} more, in the .json file."


def _facts(report: ExportReport) -> Iterator[str]:
    card = report.card
    taken = card.input
    size = "any" if taken.static_hw is None else f"{taken.height}x{taken.width} (height x width)"
    yield f"- images: {size}; in a batch: {'any number' if taken.batch is None else taken.batch}"
    yield f"- classes: {', '.join(card.class_names)}"
    yield f"- rows an image: {card.detections}; thresholds: " + (
        ", ".join(f"{name} {value:g}" for name, value in card.thresholds.items()) or "none"
    )
    for name, (bytes_, digest) in report.files.items():
        yield f"- {name}: {bytes_} bytes, SHA-256 {digest}"
    if report.evidence.seconds is not None:
        pytorch, file = report.evidence.seconds
        yield f"- median per image, in turn: PyTorch {1000 * pytorch:.1f} ms, the file {1000 * file:.1f} ms"
    for key, value in {**card.provenance, **report.details}.items():
        yield f"- {key}: {_plain(value)}"


def _check_dict(check: Tally) -> dict[str, Any]:
    return {
        **asdict(check),
        "counted": len(check.counted),
        "reasons": check.reasons(),
    }


def _apart(pytorch: float, file: float, precision: str) -> float:
    """How far a score of the file lies away; of lower precisions, how far below."""
    if math.isnan(pytorch) and math.isnan(file):
        return 0.0
    if math.isnan(pytorch) or math.isnan(file):
        return math.inf
    return abs(file - pytorch) if precision == "fp32" else pytorch - file


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.2f}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_plain(entry) for entry in value) or "none"
    return str(value)


def _finite(value: Any) -> Any:
    """A tree for JSON: null for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
