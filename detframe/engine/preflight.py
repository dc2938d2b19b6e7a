"""What a config is asked before a training: do its names lead somewhere, and will there be the SOLVER.BEST_METRIC?"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from detframe import registry
from detframe.checkpoint import Checkpoint
from detframe.compat import read_weights
from detframe.compat.state import find_state_dict
from detframe.config import ConfigNode, check
from detframe.data import Records
from detframe.data.catalog import find_entry, read_catalogs
from detframe.errors import InvalidValueError
from detframe.evaluation.proposals import AREAS, LIMITS
from detframe.evaluation.tt100k import MEASURES, SIZES
from detframe.registry import nearest

# What fills the registries with detframe's own members
_MEMBERS = (
    "detframe.modeling",
    "detframe.data.formats",
    "detframe.evaluation",
    "detframe.solver",
    "detframe.engine.loggers.processes",
)
_COCO_METRICS = ("bbox/AP", "bbox/AP50", "bbox/AP-<class name>", "segm/AP", "keypoints/AP")
# By evaluator, examples of its metrics; those of others are only known once they have run
_EXAMPLES = {
    "coco": _COCO_METRICS,
    "tt100k": ("tt100k/F1", *_COCO_METRICS),
    "lvis": ("bbox/AP", "bbox/APr", "bbox/AR@300", "bbox/AP-<class name>", "segm/AP"),
    "voc": ("voc/AP50", "voc/AP50-<class name>", *_COCO_METRICS),
    "proposals": ("proposals/AR@1000", "proposals/AR@100", "proposals/ARs@1000"),
}
_OF_CLASS = {"voc": "AP50-"}  # else "AP-"
_NEEDS = {"segm": "MASK_ON", "keypoints": "KEYPOINT_ON"}


def check_names(cfg: ConfigNode) -> None:
    """Every name that a key chooses from a registry must be there; CUSTOM_IMPORTS are imported by now.

    Raises:
        KeyError: all names that are not, each with the nearest ones and where it was set.
        ValueError: the device is one on which nothing can be computed.
    """
    for module in _MEMBERS:
        importlib.import_module(module)
    if cfg.MODEL.DEVICE.startswith("meta"):
        raise InvalidValueError("MODEL.DEVICE meta holds shapes and no numbers: models are built on it, and never run")
    check.check_names(cfg)


def check_data_sets(cfg: ConfigNode, names: Sequence[str]) -> None:
    """Every data set must be in the catalog, its format known, and its files there.

    Raises:
        KeyError, FileNotFoundError, ValueError: one is not; see `detframe.data.catalog`.
    """
    entries = read_catalogs(cfg.DATASETS.CATALOG) if names else {}
    for name in dict.fromkeys(names):
        entry = find_entry(name, entries, cfg.DATASETS.CATALOG)
        registry.DATASET_FORMATS.get(entry.format)
        entry.check_exists()


def check_weights(cfg: ConfigNode, goes_on: bool = False) -> None:
    """The weights to begin with and those of a teacher must be there, and be weights; whether they fit the model is
    known when the data have said how many classes it has.

    Args:
        goes_on: the weights to begin with are those of the run's own checkpoint.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: as `read_weights`, or a file holds no weights.
    """
    if cfg.MODEL.WEIGHTS and not goes_on:
        find_state_dict(read_weights(cfg.MODEL.WEIGHTS), cfg.MODEL.WEIGHTS)
    if cfg.MODEL.DISTILL.TEACHER_WEIGHTS:
        teacher = cfg.MODEL.DISTILL.TEACHER_WEIGHTS
        Checkpoint.of(read_weights(teacher), teacher)


# ---------------------------------------------------------------------------------------------- SOLVER.BEST_METRIC
def choose_metric(cfg: ConfigNode, sets: Mapping[str, Records] | None = None) -> str:
    """The full name of SOLVER.BEST_METRIC: with several test sets and no set named, that of the first one.

    Args:
        sets: the records of each data set of DATASETS.TEST, where they are known by now.

    Raises:
        ValueError: no evaluation of this config, or of these data, will produce it.
    """
    metric, tests = cfg.SOLVER.BEST_METRIC, cfg.DATASETS.TEST
    named = max((name for name in tests if metric.startswith(f"{name}/")), key=len, default="")
    within = metric.removeprefix(f"{named}/") if named else metric
    if within == "val/loss" or within.startswith("val/loss_"):
        raise InvalidValueError(
            f"{_called(cfg)} is a loss, which is the better the lower it is, and the best model is the one with the "
            "highest metric; take one of the evaluator, as bbox/AP"
        )
    if cfg.TEST.EVALUATOR in _EXAMPLES:
        _check_metric(cfg, within)
        chosen = named or (tests[0] if tests else "")
        if sets is not None and chosen in sets:
            _check_metric_of(cfg, within, chosen, sets[chosen])
    return f"{named or tests[0]}/{within}" if len(tests) > 1 else within


def _check_metric(cfg: ConfigNode, metric: str) -> None:
    kind, _, name = metric.partition("/")
    evaluator, known = cfg.TEST.EVALUATOR, _known_metrics(cfg.TEST.EVALUATOR)
    if kind not in {key.partition("/")[0] for key in known}:
        tests = f"; the data sets of DATASETS.TEST are {', '.join(cfg.DATASETS.TEST)}" if metric.count("/") > 1 else ""
        raise InvalidValueError(
            f"{_called(cfg)} is no metric of the evaluator {evaluator!r}; "
            f"as {', '.join(map(repr, _EXAMPLES[evaluator]))}{tests}"
        )
    if kind not in ("tt100k", "proposals") and name.startswith(_OF_CLASS.get(kind, "AP-")):
        known = [*known, metric]  # see _check_metric_of
    if metric not in known:
        raise InvalidValueError(f"{_called(cfg)} is no metric of the evaluator {evaluator!r}; {nearest(metric, known)}")
    switch = _NEEDS.get(kind)
    if switch and not cfg.MODEL[switch]:
        raise InvalidValueError(
            f"{_called(cfg)} needs MODEL.{switch}, which is off (from {cfg.source(f'MODEL.{switch}')}): "
            f"the model predicts no {'masks' if kind == 'segm' else 'keypoints'}; take bbox/AP, or switch it on"
        )


def _known_metrics(evaluator: str) -> list[str]:
    """The metrics of an evaluator but for those of single classes."""
    if evaluator == "proposals":
        return [f"proposals/AR{size}@{limit}" for limit in LIMITS for size in AREAS]
    if evaluator == "lvis":
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300")
        return [f"{kind}/{name}" for kind in ("bbox", "segm") for name in names]
    everywhere, small = ("AP", "AP50", "AP75", "APm", "APl", "ARmax"), ("APs", "AR1", "AR10")
    known = [f"{kind}/{name}" for kind in ("bbox", "segm") for name in (*everywhere, *small)]
    known += [f"keypoints/{name}" for name in everywhere]
    if evaluator == "voc":
        known.append("voc/AP50")
    if evaluator == "tt100k":
        suffixes = [size + best for size in SIZES for best in ("", "-at-best")]
        known += [f"tt100k/{measure}{suffix}" for measure in MEASURES for suffix in suffixes]
    return known


def _check_metric_of(cfg: ConfigNode, metric: str, name: str, records: Records) -> None:
    kind, _, measure = metric.partition("/")
    classes = list(records.metadata.class_names)
    wanted = measure.removeprefix(_OF_CLASS.get(kind, "AP-"))
    if kind in ("bbox", "voc", *_NEEDS) and wanted != measure and wanted not in classes:
        raise InvalidValueError(
            f"{_called(cfg)}: the data set {name} has no class {wanted!r}; {nearest(wanted, classes)}"
        )
    if kind == "segm" and not records.has_masks:
        raise InvalidValueError(f"{_called(cfg)} needs masks, and the data set {name} has none; take bbox/AP")
    if kind == "keypoints" and not records.metadata.keypoint_names:
        raise InvalidValueError(f"{_called(cfg)} needs keypoints, and the data set {name} has none; take bbox/AP")


def _called(cfg: ConfigNode) -> str:
    return f"SOLVER.BEST_METRIC {cfg.SOLVER.BEST_METRIC!r}"
