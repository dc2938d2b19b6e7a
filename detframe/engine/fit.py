"""How the data fit the model: objects after resizing, what the detector can assign to them, and how many it may give.

No image is read and no weight is used. A training logs the short form, `fit_lines`; what there is to say at length, and
which setting would change it, is in detframe.recipes.reach.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detframe.arrays.resize import resize_shapes
from detframe.config import ConfigNode
from detframe.config.keys.dense import OWN_RULES
from detframe.data import Records
from detframe.data.transforms import LargeScaleJitter, Resize, build_train_transforms
from detframe.modeling import GeneralizedRCNN
from detframe.modeling.rpn.assigner import rule_of
from detframe.ops.reach import Objects, Reached

Line = tuple[int, str]  # level of logging, text
SHRUNK = 3.0  # an image whose sides become that many times shorter is worth a word
SMALL = 16.0  # pixels of side, below which an object that was larger is one that resizing made hard
MAX_OBJECTS = 30_000  # of more, those of evenly spaced images stand for all
# Objects out of reach are worth a word when they are this share of all, or of a size that is common
MISSED, MISSED_OF_SIZE, COMMON = 0.05, 0.2, 0.02
# Anchors that are so many times as large as their object, or it as they, are a bad fit
ILL_FITTING = 4.0
# Pixels of side, from which on "nwd" and "rfla" give an object few anchors for its size
LARGE = 96.0
FEW_WHATEVER_SIZE = ("nwd", "rfla")
_PROPOSALS = 4  # times as many proposals as detections: several of one object are usual
MAX_RANKED = 6_000  # instead of MAX_OBJECTS where anchors are ranked, which looks at many for each object
THRESHOLDS = {"AnchorRPN": "RPN", "RetinaNet": "RETINANET"}  # RPN head: section of its FG_IOU_THRESHOLD


# ---------------------------------------------------------------------------------------------- sizes
@dataclass(frozen=True)
class View:
    """A resizing of the images: the shorter side becomes `min_size` (0: none), the longer one at most `max_size`."""

    name: str
    keys: str  # of the config, that say so
    min_size: int
    max_size: int

    def sizes_hw(self, records: Records) -> np.ndarray:
        """Of all images, int64 (I, 2)."""
        return resize_shapes(records.sizes_hw, self.min_size, self.max_size)

    def factors(self, records: Records) -> np.ndarray:
        """How many times shorter the sides of each image become, float64 (I,)."""
        return np.max(records.sizes_hw / np.maximum(self.sizes_hw(records), 1), axis=1, initial=0)


def training_views(cfg: ConfigNode) -> list[View]:
    """The resizings of the training: the middle one, then, where there are several, the smallest and the largest."""
    resizing = next(iter(build_train_transforms(cfg).resizing()), None)
    if isinstance(resizing, LargeScaleJitter):
        scales = (resizing.min_scale, (resizing.min_scale + resizing.max_scale) / 2, resizing.max_scale)
        limits = [max(1, round(resizing.size * scale)) for scale in scales]
        sizes, names = [(limit, limit) for limit in limits], "INPUT.LSJ"
    else:
        resizing = resizing or Resize(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN)
        given = sorted(resizing.min_sizes)
        middle = given[len(given) // 2] if resizing.sampling == "choice" else sum(given) // 2
        sizes = [(size, resizing.limit(size)) for size in (given[0], middle, given[-1])]
        names = "INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN"
    names = "INPUT.TRANSFORMS" if cfg.INPUT.TRANSFORMS else names
    views = [View("training", names, *sizes[1])]
    if sizes[0] != sizes[2]:
        views += [View("smallest training", names, *sizes[0]), View("largest training", names, *sizes[2])]
    return views


def eval_view(cfg: ConfigNode) -> View:
    """The resizing of evaluation and prediction."""
    return View("test", "INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST", cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def sampled(records: Records, cfg: ConfigNode) -> Records:
    """The records, or of very many evenly spaced ones that hold about MAX_OBJECTS objects (MAX_RANKED where the config
    ranks anchors); always the same."""
    counts = records.num_objects
    most = MAX_OBJECTS if rule_of(cfg) == "iou" else min(MAX_OBJECTS, MAX_RANKED)
    share = most / max(1, int(counts.sum()))
    if share >= 1:
        return records
    some = np.flatnonzero(counts)
    return records.select(some[np.unique(np.linspace(0, len(some) - 1, max(1, int(len(some) * share))).astype(int))])


def place_objects(model: GeneralizedRCNN, records: Records, view: View) -> Objects:
    """The objects as the model meets them, crowds left out."""
    objects = records.objects()
    keep = ~objects.iscrowd
    image, boxes = torch.from_numpy(objects.image[keep]), torch.from_numpy(objects.boxes[keep])
    old_hw = torch.from_numpy(records.sizes_hw.astype(np.int64)).reshape(-1, 2)
    new_hw = torch.from_numpy(view.sizes_hw(records))
    scale = (new_hw / old_hw).float().flip(1)[image]
    boxes = boxes * scale.repeat(1, 2)
    if model.pixel:
        boxes[:, 2:] = torch.maximum(boxes[:, 2:] - model.pixel * scale, boxes[:, :2])
    divisor = model.preprocessor.divisor
    return Objects(boxes, image, new_hw, (new_hw + divisor - 1) // divisor * divisor)


# ---------------------------------------------------------------------------------------------- what the model reaches
def reached(model: GeneralizedRCNN, objects: Objects) -> Reached | None:
    """What training can assign to each object; None where the RPN head does not tell: one of a user's without
    `reach`."""
    reach = getattr(model.rpn, "reach", None)
    if reach is None:
        return None
    found: Reached | None = reach(objects.to(model.device if model.device.type != "meta" else torch.device("cpu")))
    return None if found is None else found.cpu()


def below_a_cell(model: GeneralizedRCNN, objects: Objects) -> Tensor | None:
    """Which objects are narrower than a cell of the map that ROI heads pool them from, bool (N,); None without such."""
    pooler = getattr(model.roi_heads, "box_pooler", None)
    if pooler is None:
        return None
    stride = 2.0 ** pooler.levels(objects.boxes)
    return (objects.boxes[:, 2:] - objects.boxes[:, :2] + model.pixel).amin(1) < stride


def reach_words(cfg: ConfigNode) -> tuple[str, str]:
    """What it is to be reached, and to be out of reach, in clauses about objects."""
    section, ranking = THRESHOLDS.get(cfg.MODEL.RPN.NAME), rule_of(cfg)
    if ranking != "iou":
        what = _priors(cfg)[:-1]
        own = cfg.MODEL.RPN.ASSIGNER != ranking
        rule = f"the rule {ranking} of MODEL.RPN.NAME {cfg.MODEL.RPN.NAME}" if own else f"MODEL.RPN.ASSIGNER {ranking}"
        return f"get {_a(what)} by {rule}", f"get no {what} by {rule}"
    if section is None:
        return "get a location of their own", "get no location of their own"
    keys = cfg.MODEL[section]
    low = f"{keys.BG_IOU_THRESHOLD:g} (MODEL.{section}.BG_IOU_THRESHOLD)"
    return f"overlap an anchor by {keys.FG_IOU_THRESHOLD:g} or more", f"overlap no anchor by {low}"


def reach_keys(cfg: ConfigNode) -> str:
    """The settings that decide about it."""
    section = THRESHOLDS.get(cfg.MODEL.RPN.NAME)
    if cfg.MODEL.RPN.ASSIGNER == "rfla":
        section = None
    own = f"MODEL.{section}.ANCHOR_SIZES" if section else "MODEL.FCOS.SIZES_OF_INTEREST or CENTER_SAMPLING_RADIUS"
    if cfg.MODEL.RPN.NAME in OWN_RULES:
        own = "MODEL.RPN.ASSIGNMENT.FCOS_PRIOR"
    if cfg.MODEL.RPN.NAME == "TOOD":  # which takes any location in an object
        return "INPUT.MIN_SIZE_TRAIN, or a pyramid with a finer level"
    return f"{own}, INPUT.MIN_SIZE_TRAIN, or a pyramid with a finer level"


def percent(share: float) -> str:
    """ "34 %", or with a decimal where that says more."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 10 and round(value, 1) != round(value) else f"{value:.0f} %"


# ---------------------------------------------------------------------------------------------- how well it fits
@dataclass(frozen=True)
class Misfit:
    """Objects that a rule which ranks gives anchors that suit them badly.

    Attributes:
        text: what is wrong with how many of all objects, without their number: "of 90 objects (40 %) are ...".
        remedy: the settings that change it, in a clause.
    """

    count: int
    text: str
    remedy: str


def misfits(cfg: ConfigNode, objects: Objects, found: Reached | None) -> list[Misfit]:
    """Where MODEL.RPN.ASSIGNER fits the data badly, as far as it is common; nothing where thresholds assign."""
    if found is None or found.fit is None:
        return []
    fit, what, rule = found.fit, _priors(cfg), rule_of(cfg)
    sizes, finer = _sizes_key(cfg), "a larger INPUT.MIN_SIZE_TRAIN and MIN_SIZE_TEST, or a pyramid with a finer level"
    kinds = [
        (
            found.full & (fit.scale <= 1 / ILL_FITTING),
            MISSED,
            f"are {ILL_FITTING:.0f} times smaller than the {what} that are to find them, or more",
            f"smaller {sizes}, {finer}" if sizes else finer,
        ),
        (
            found.full & (fit.scale >= ILL_FITTING),
            MISSED,
            f"are {ILL_FITTING:.0f} times larger than the {what} that are to find them, or more",
            f"larger {sizes}" if sizes else "MODEL.RPN.ASSIGNER iou or atss, with anchors of their size",
        ),
    ]
    if rule in FEW_WHATEVER_SIZE:
        large = objects.sides >= LARGE
        mean = float(fit.positives[large].double().mean()) if large.any() else 0.0
        text = (
            f"have a side of {LARGE:.0f} pixels or more and get {mean:.1f} {what} each, no more than tiny ones, which "
        )
        kinds.append((large, MISSED_OF_SIZE, f"{text}{rule} was made for", "MODEL.RPN.ASSIGNER iou or atss"))
    total = len(objects.image)
    return [
        Misfit(count, f"of {total} objects ({percent(count / total)}) {text}", remedy)
        for rows, least, text, remedy in kinds
        if (count := int(rows.sum())) and count >= least * total
    ]


def _priors(cfg: ConfigNode) -> str:
    """What is assigned to objects, in the plural."""
    return "anchors" if cfg.MODEL.RPN.NAME in THRESHOLDS else "locations"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _sizes_key(cfg: ConfigNode) -> str:
    """The key that says how large the anchors are that are ranked; "" where the network does."""
    if cfg.MODEL.RPN.ASSIGNER == "rfla":
        return ""
    section = THRESHOLDS.get(cfg.MODEL.RPN.NAME)
    return f"MODEL.{section}.ANCHOR_SIZES" if section else "MODEL.RPN.ASSIGNMENT.FCOS_PRIOR"


# ---------------------------------------------------------------------------------------------- before a training
def fit_lines(
    cfg: ConfigNode, model: GeneralizedRCNN, records: Records, test_sets: Mapping[str, Records]
) -> list[Line]:
    """What the log of a training says: one line of numbers, and a warning for each thing that looks wrong."""
    if not int(records.num_objects.sum()):
        return [(logging.WARNING, "no training image has an object: the model will learn to find nothing")]
    view, some = training_views(cfg)[0], sampled(records, cfg)
    objects = place_objects(model, some, view)
    factors = view.factors(records)
    shrunk = int((factors >= SHRUNK).sum())
    images = (
        f"{shrunk} of {len(records)} images are shrunk {SHRUNK:.0f} times or more, at most {factors.max():.1f} times"
    )
    summary, warnings = _reach_lines(cfg, model, objects)
    small = small_by_shrinking(some, view, objects)
    if small >= COMMON * len(objects.image):
        share = percent(small / len(objects.image))
        text = f"{images} ({view.keys}); {share} of all objects lie in them and are below {SMALL:.0f} pixels then"
        warnings.append((logging.WARNING, text))
    elif shrunk:
        summary = f"{summary}; {images}"
    return [(logging.INFO, summary), *warnings, *_crowded_lines(cfg, test_sets)]


def _reach_lines(cfg: ConfigNode, model: GeneralizedRCNN, objects: Objects) -> tuple[str, list[Line]]:
    """A summary of the objects in training, and a warning where too many are out of reach."""
    low, middle, high = np.percentile(objects.sides.numpy(), (5, 50, 95)).tolist()
    summary = (
        f"objects after resizing in training: half have a side below {middle:.0f} pixels, "
        f"90 % have {low:.0f} to {high:.0f}"
    )
    found = reached(model, objects)
    if found is None:
        return summary, []
    yes, no = reach_words(cfg)
    summary = f"{summary}; {percent(float(found.full.double().mean()))} {yes}"
    ill = [(logging.WARNING, f"{m.count} {m.text}; try {m.remedy}") for m in misfits(cfg, objects, found)]
    missed = float(found.missed.double().mean())
    if missed < MISSED:
        return summary, ill
    median = float(objects.sides[found.missed].median())
    text = (
        f"{percent(missed)} of the training objects (their median side is {median:.0f} pixels after resizing) {no}, "
        f"so the detector can hardly learn them: see {reach_keys(cfg)}"
    )
    return summary, [(logging.WARNING, text), *ill]


def small_by_shrinking(records: Records, view: View, objects: Objects) -> int:
    """The number of objects below SMALL pixels after resizing, in images that it shrinks SHRUNK times or more."""
    shrunk = torch.from_numpy(view.factors(records) >= SHRUNK)
    return int((shrunk[objects.image] & (objects.sides < SMALL)).sum())


def _crowded_lines(cfg: ConfigNode, test_sets: Mapping[str, Records]) -> Iterator[Line]:
    limits = {"TEST.DETECTIONS_PER_IMG": 1}
    if cfg.MODEL.ROI_HEADS.NAME:
        per_level = cfg.MODEL.RPN.POST_NMS_PER == "level"
        limits[f"MODEL.RPN.{'FPN_' * per_level}POST_NMS_TOP_N_TEST"] = _PROPOSALS
    for name, test in test_sets.items():
        counts = test.num_objects
        for key, times in limits.items():
            limit = cfg.at(key)
            many = int((counts > limit).sum())
            if many:
                yield (
                    logging.WARNING,
                    f"{many} of {len(test)} images of {name} hold more objects (up to {counts.max()}) than {key} "
                    f"{limit} lets the model find: set it to {times * room_for(int(counts.max()))}",
                )


def room_for(most: int) -> int:
    """A limit of detections for images with up to so many objects: a tenth more, to the next fifty."""
    return -(-(most * 11) // 500) * 50
