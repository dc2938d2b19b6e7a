"""The model card of a detector: README.md with the YAML that the Hugging Face hub reads, written from what is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from detframe.config import ConfigNode
from detframe.inference.folder_files import MARK
from detframe.inference.run_files import RunNumbers
from detframe.texts import counted, format_seconds

_TASK = "object-detection"
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")
_LONGEST = 80  # characters of a name in a table
_MOST_CLASSES = 200  # rows of a table that somebody still reads


def card_text(
    name: str,
    cfg: ConfigNode,
    about: Mapping[str, Any],
    numbers: RunNumbers,
    license: str = "",
    files: Sequence[str] = (),
) -> str:
    """The text of README.md.

    Args:
        name: of the model, as "me/blood-cells".
        about: what config.json holds: class_names, category_ids, parameters, initial_weights, detframe_version.
        license: of the weights, by its name on the hub.
        files: names of exported files beside.
    """
    front = yaml.safe_dump(_front(name, cfg, numbers, license), sort_keys=False, allow_unicode=True, width=120)
    sections = (
        f"# {_plain(name)}",
        MARK,
        _summary(cfg, about),
        _section("How to use it", _usage(name, cfg, files)),
        _section("How well it works", _metrics(cfg, numbers)),
        _section("Classes", _classes(about, numbers)),
        _section("Where it comes from", _provenance(cfg, about, numbers)),
        _section("Limits", _limits(cfg, numbers, license)),
    )
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


# ---------------------------------------------------------------------------------------------- for the hub
def _front(name: str, cfg: ConfigNode, numbers: RunNumbers, license: str) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "detframe", "pipeline_tag": _TASK, "tags": _tags(cfg)}
    if license:
        front["license"] = license
    results = [
        {
            "task": {"type": _TASK, "name": "Object detection"},
            "dataset": {"type": data, "name": data},
            "metrics": [
                {
                    "type": "mAP" if key.endswith("/AP") else key.rpartition("/")[2],
                    "name": key,
                    "value": round(value, 2),
                }
                for key, value in metrics.items()
            ],
        }
        for data, metrics in _overall(cfg, numbers).items()
    ]
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    return front


def _tags(cfg: ConfigNode) -> list[str]:
    heads = cfg.MODEL.ROI_HEADS.NAME or cfg.MODEL.RPN.NAME
    tags = [_TASK, "detframe", "pytorch", heads.lower(), cfg.MODEL.BACKBONE.CONV_BODY.lower()]
    tags += ["instance-segmentation"] if cfg.MODEL.MASK_ON else []
    return tags + (["keypoint-detection"] if cfg.MODEL.KEYPOINT_ON else [])


def _overall(cfg: ConfigNode, numbers: RunNumbers) -> dict[str, dict[str, float]]:
    """Metrics by data set, without those of single classes."""
    out: dict[str, dict[str, float]] = {}
    for key, value in numbers.metrics.items():
        if not _of_class(key):
            data, short = _placed(cfg, key)
            out.setdefault(data, {})[short] = value
    return out


def _placed(cfg: ConfigNode, key: str) -> tuple[str, str]:
    """(data set, metric without it): where several were evaluated, their names stand before the metrics."""
    for name in cfg.DATASETS.TEST:
        if key.startswith(f"{name}/"):
            return str(name), key.removeprefix(f"{name}/")
    return (str(cfg.DATASETS.TEST[0]) if len(cfg.DATASETS.TEST) == 1 else "unknown"), key


def _of_class(key: str) -> bool:
    return "/AP-" in key


# ---------------------------------------------------------------------------------------------- for the reader
def _section(title: str, lines: Iterator[str]) -> str:
    return "\n".join((f"## {title}", "", *lines))


def _summary(cfg: ConfigNode, about: Mapping[str, Any]) -> str:
    heads = f", {cfg.MODEL.ROI_HEADS.NAME}" if cfg.MODEL.ROI_HEADS.NAME else ""
    more = [what for what, on in (("masks", cfg.MODEL.MASK_ON), ("keypoints", cfg.MODEL.KEYPOINT_ON)) if on]
    finds = f" with {' and '.join(more)}" if more else ""
    return (
        f"Finds objects of {counted(len(about['class_names']), 'class', 'classes')}{finds} in pictures. A detector of "
        f"detframe: {cfg.MODEL.BACKBONE.CONV_BODY}, {cfg.MODEL.RPN.NAME}{heads}, "
        f"{about['parameters'] / 1e6:.2f} million parameters."
    )


def _usage(name: str, cfg: ConfigNode, files: Sequence[str]) -> Iterator[str]:
    more = ", allow_custom_imports=True" if cfg.CUSTOM_IMPORTS else ""
    yield from (
        "```python",
        "from detframe import Detector",
        f"detector = Detector.from_pretrained({name!r}{more})",
        'print(detector.predict("photo.jpg", score_threshold=0.5))',
        "```",
        "",
        "That needs detframe and, to fetch it, huggingface_hub. Boxes are x1, y1, x2, y2 in pixels of the "
        "picture, best first.",
    )
    if cfg.CUSTOM_IMPORTS:
        named = ", ".join(_plain(module) for module in cfg.CUSTOM_IMPORTS)
        yield f"\nIt needs Python code of its author: {named}. That is not here unless somebody has put it here."
    for file in files:
        yield f"\n`Detector.from_pretrained({name!r}, file={file!r})` predicts with the exported file."


def _metrics(cfg: ConfigNode, numbers: RunNumbers) -> Iterator[str]:
    overall = _overall(cfg, numbers)
    if not overall:
        yield "Nobody evaluated these weights, or the numbers were not at hand when this card was written."
        return
    yield f"From 0 to 100, as {cfg.TEST.EVALUATOR} counts them; from {numbers.source}."
    yield from ("", "| data set | metric | value |", "|---|---|---|")
    for data, metrics in overall.items():
        yield from (f"| {_plain(data)} | {_plain(key)} | {value:.2f} |" for key, value in metrics.items())


def _classes(about: Mapping[str, Any], numbers: RunNumbers) -> Iterator[str]:
    names, ids = about["class_names"], about.get("category_ids", [])
    single = {key: value for key, value in numbers.metrics.items() if _of_class(key)}
    kinds = sorted({key.partition("/AP-")[0] for key in single})
    yield from (
        " | ".join(("| label", "name", "category id", *(f"AP, {_plain(kind)}" for kind in kinds))) + " |",
        "|---" * (3 + len(kinds)) + "|",
    )
    for label, (class_name, category) in enumerate(zip(names, ids, strict=False), start=1):
        if label > _MOST_CLASSES:
            yield f"\n... and {counted(len(names) - _MOST_CLASSES, 'class', 'classes')} more, in `config.json`."
            break
        ap = [single.get(f"{kind}/AP-{class_name}") for kind in kinds]
        cells = (str(label), _plain(class_name), str(category), *("" if a is None else f"{a:.2f}" for a in ap))
        yield f"| {' | '.join(cells)} |"


def _provenance(cfg: ConfigNode, about: Mapping[str, Any], numbers: RunNumbers) -> Iterator[str]:
    facts = numbers.facts
    rows = {
        "Trained on": _fact(numbers, "Trained on") or ", ".join(cfg.DATASETS.TRAIN),
        "Tested on": ", ".join(cfg.DATASETS.TEST),
        "Initial weights": about["initial_weights"] or "random",
        "Iteration": "" if numbers.iteration is None else str(numbers.iteration),
        "Optimizer": f"{cfg.SOLVER.OPTIMIZER}, learning rate {cfg.SOLVER.BASE_LR:g}, "
        f"{counted(cfg.SOLVER.IMS_PER_BATCH, 'image')} a step",
        "Size of the pictures": _sizes(cfg),
        "Seed": str(cfg.SEED),
        "Begun": facts.started if facts else "",
        "Time": format_seconds(facts.seconds) if facts and facts.seconds else "",
        "Versions": _versions(about, numbers),
    }
    yield from ("| | |", "|---|---|")
    yield from (f"| {title} | {_plain(text, longest=400)} |" for title, text in rows.items() if text)
    yield "\nAll settings are in `config.yaml`, but for paths of the machine that trained."


def _fact(numbers: RunNumbers, title: str) -> str:
    return dict(numbers.facts.facts).get(title, "") if numbers.facts else ""


def _sizes(cfg: ConfigNode) -> str:
    if not cfg.INPUT.MIN_SIZE_TEST:
        return "as they are"
    return f"resized to a shorter side of {cfg.INPUT.MIN_SIZE_TEST}, a longer one of {cfg.INPUT.MAX_SIZE_TEST} at most"


def _versions(about: Mapping[str, Any], numbers: RunNumbers) -> str:
    versions = numbers.facts.versions if numbers.facts else {}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or (
        f"detframe {about.get('detframe_version', '?')}"
    )


def _limits(cfg: ConfigNode, numbers: RunNumbers, license: str) -> Iterator[str]:
    trained = ", ".join(_plain(name) for name in cfg.DATASETS.TRAIN) or "data that nobody named"
    yield f"- It knows what {trained} shows. How well it works on pictures of another kind, nobody has measured."
    where = f"tile of {cfg.INPUT.TILES.SIZE} pixels" if cfg.INPUT.TILES.SIZE else "picture"
    yield f"- At most {cfg.TEST.DETECTIONS_PER_IMG} objects are found in a {where}."
    small = next((value for key, value in numbers.metrics.items() if key.endswith("bbox/APs")), None)
    if small is not None:
        yield f"- Objects of less than 32 x 32 pixels: an AP of {small:.2f}."
    yield "- A score is no probability of being right. Choose the threshold on pictures of your own."
    yield f"- {_licensed(license)}"


def _licensed(license: str) -> str:
    if license:
        return f"License of the weights: {_plain(license)}. What the data and the initial weights allow may differ."
    return "No license of the weights was named."


def _plain(text: Any, longest: int = _LONGEST) -> str:
    """A name from somebody's file that means nothing to Markdown, on one line."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else f"{line[: longest - 3]}..."
    return _MARKUP.sub(r"\\\1", line)
