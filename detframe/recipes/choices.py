"""From facts about data and machine to the values of a config, each with its reason. Pure: same facts, same choices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detframe.config.effects import norm_key
from detframe.errors import InvalidValueError
from detframe.recipes.augmentation import horizontal, vary, vertical
from detframe.recipes.balance import balance
from detframe.recipes.budget import Length, Pace, choose_length
from detframe.recipes.facts import DataFacts, resize_scales
from detframe.recipes.geometry import anchors, canonical_size, input_size
from detframe.recipes.machine import GIGABYTE, Machine
from detframe.recipes.on_base import on_base, steps_of_base, whole_duration
from detframe.recipes.spelling import option
from detframe.recipes.wish import SIZES, TASKS, Choice, Picks, Wish
from detframe.texts import counted


# ------------------------------------------------------------------------------------------------- the numbers
# Every constant that a training depends on stands in this table, with the reason for it.
@dataclass(frozen=True)
class Size:
    """A model of one size, and how it is trained."""

    body: str
    channels: int  # of the pyramid
    head: int  # width of the fully connected layers of the ROI heads
    branch: int  # channels of the mask and keypoint heads
    proposals: tuple[int, int, int]  # per level before NMS; after it in training, in evaluation
    regions: int  # sampled per image for the losses of the box head
    shorter: tuple[int, int]  # bounds of the shorter side of the input
    batch: int  # images per step and process at most
    bytes_per_pixel: int  # of input that a training step holds, measured at most
    rate: float  # BASE_LR at `rate_batch` images
    rate_batch: int
    pyramid_norm: str
    suits: str


MODELS = {
    # For two cores: a backbone of depthwise convolutions, a quarter of the usual channels, and steps of two images, of
    # which there are twice as many in the same time, and which find more
    "small": Size("MNV2-FPN", 64, 256, 64, (500, 500, 300), 128, (192, 448), 2, 3000, 1e-3, 2, "GN", "a few CPU cores"),
    # The usual detector of one GPU; AdamW 2e-4 at 16 images is what fine-tunes ResNet-50 best in 12 epochs of COCO
    "medium": Size("R-50-FPN", 256, 1024, 256, (1000, 1000, 1000), 256, (480, 800), 8, 2500, 2e-4, 16, "", "one GPU"),
    "large": Size(
        "R-101-FPN", 256, 1024, 256, (1000, 1000, 1000), 512, (640, 800), 8, 3600, 2e-4, 16, "", "several GPUs"
    ),
}
# Where a medium model has to do with a CPU or a small GPU
LIGHT_MEDIUM = Size(
    "R-18-FPN", 128, 512, 128, (500, 500, 300), 128, (320, 640), 4, 1800, 3e-4, 4, "GN", "a CPU or a small GPU"
)
SMALL_GPU = 6 * GIGABYTE
MEMORY_SHARE = 0.7  # of a GPU's memory that a batch may take by the estimate; the trial shows what it takes

SCRATCH_BATCH = 4  # images of a step at least where the backbone starts at random

OPTIMIZER, WEIGHT_DECAY = "AdamW", 0.05  # sure-footed where batches are small and runs are short
CLIP_GRAD_NORM = 10.0  # the first steps of heads that start at random
WARMUP_STEPS, WARMUP_SHARE = 100, 0.1
EMA = ((2000, 0.99), (20_000, 0.999), (math.inf, 0.9998))  # (steps of the training below this, decay)
# Objects of at least this side at the input, typically, whose boxes a cascade of box heads fits better: at equal time
# blood cells of 54 and 37 pixels gained AP 2.8, fish and cars of 20 less than seeds differ by (docs/recipes.md)
CASCADE_FROM = 32.0
# Objects of a usual side below this at the input, all classes together, which even anchors of 16 do not fit: receptive
# fields in place of anchors, and a finer level, found more fish of 6 and insects of 9 pixels (docs/small_objects.md)
TINY_BELOW = 10.0
POSITIVE_FRACTION = 0.5  # few proposals are foreground at first, and few RoIs are sampled
SMOOTH_L1_BETA = 0.0  # plain L1: boxes become exact in few steps
DETECTIONS = (100, 1.5)  # at least; times the most objects of an image
MOST_DETECTIONS = 1000

# By which of these a command line takes that choice
_OF_TINY = (
    "MODEL.BACKBONE.CONV_BODY",
    "MODEL.RPN.ASSIGNER",
    "MODEL.RPN.ANCHOR_SIZES",
    "MODEL.RPN.NAME",
    "MODEL.ROI_HEADS.NAME",
)

KEPT = 2  # training checkpoints: one to go on from, one in case it is damaged


# ------------------------------------------------------------------------------------------------- the choices
def choose(facts: DataFacts, machine: Machine, wish: Wish, pace: Pace | None = None) -> list[Choice]:
    """Every choice of a recipe, in the order of the config's keys.

    Args:
        pace: times measured with an earlier result of this function; None chooses a length without them.

    Raises:
        ValueError: a task that the data cannot teach, or an unknown one.
    """
    check_task(facts, wish.task)
    picks = Picks(wish)
    _channels(picks, facts)
    if wish.base is None:
        size = size_of(machine, wish.model)
        _model(picks, facts, machine, size)
        _input(picks, facts, size)
        _proposals(picks, size)
        balance(picks, facts)
        batch = _batch(picks, facts, machine, size)
        rate = size.rate * math.sqrt(batch / size.rate_batch)
        why = f"{size.rate:g} at {size.rate_batch} images, by the square root of the batch"
    else:
        batch, rate, why = on_base(picks, facts, machine)
    _detections(picks, facts)
    _data(picks, facts)
    length = choose_length(picks, facts, machine, batch, pace)
    if wish.base is None:
        vary(picks, facts, length.steps * batch / facts.images)
    _solver(picks, length, rate, why)
    if picks.get("SOLVER.LR_RULE") != "none" and not picks.is_given("SOLVER.BASE_LR"):
        picks.set("SOLVER.REFERENCE_BATCH", batch, "SOLVER.BASE_LR is of it")
    return picks.all()


def size_of(machine: Machine, model: str = "") -> Size:
    """The model of a size, or of the one that suits the machine.

    Raises:
        ValueError: an unknown size.
    """
    if model and model not in SIZES:
        raise InvalidValueError(f"{option('model')} must be one of {', '.join(SIZES)}, or a config, not {model!r}")
    name = model or _suited(machine)
    light = not machine.gpu or machine.gpu_memory < SMALL_GPU
    return LIGHT_MEDIUM if name == "medium" and light else MODELS[name]


def _suited(machine: Machine) -> str:
    if not machine.gpu:
        return "small"
    return "large" if machine.ranks > 1 and machine.gpu_memory >= SMALL_GPU else "medium"


def check_task(facts: DataFacts, task: str) -> None:
    """Raises ValueError for a task that the data cannot teach, or an unknown one."""
    if task not in TASKS:
        raise InvalidValueError(f"{option('task')} must be one of {', '.join(TASKS)}, not {task!r}")
    if task == "mask" and not facts.has_masks:
        raise InvalidValueError(
            f"{option('task', 'mask')} trains on masks, but no object of these data has one (polygons or run-length "
            f"codes); {option('task', 'box')} trains on their boxes"
        )
    if task == "keypoint" and not facts.keypoints:
        raise InvalidValueError(
            f"{option('task', 'keypoint')} trains on keypoints, but these data name none; {option('task', 'box')} "
            "trains on their boxes. Of COCO's files, person_keypoints_train.json and the like have some: name the "
            "folder that holds them"
        )


def _model(picks: Picks, facts: DataFacts, machine: Machine, size: Size) -> None:
    named = picks.wish.model
    why = option("model", named) if named else f"this machine has {machine.words}: a model for {size.suits}"
    body = picks.set("MODEL.BACKBONE.CONV_BODY", size.body, why)
    picks.set("MODEL.FPN.OUT_CHANNELS", size.channels, f"width of the pyramid in a model for {size.suits}")
    if size.pyramid_norm:
        picks.set("MODEL.FPN.NORM", size.pyramid_norm, "the pyramid starts at random, and batches are small")
    _norms(picks, str(body), machine, size.batch)
    if picks.as_stored and picks.get("MODEL.WEIGHTS"):
        why = "the first convolution is made of ImageNet's filters for colours, and has to learn these channels"
        picks.set("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, why)
    _task(picks, size.branch)


def _channels(picks: Picks, facts: DataFacts) -> None:
    found = facts.channels
    if found is not None:
        why = f"measured over the pixels of {counted(found.images, 'training image')}"
        picks.set("INPUT.PIXEL_MEAN", found.mean, why)
        picks.set("INPUT.PIXEL_STD", found.deviation, why)


def _norms(picks: Picks, body: str, machine: Machine, batch: int) -> None:
    """Weights, what of the backbone is frozen, and its norms."""
    found = picks.wish.weights
    weights = picks.set("MODEL.WEIGHTS", found.value, found.reason)
    mobile = body.startswith("MNV2")
    if not weights:
        frozen, why = 0, "the backbone starts at random, so all of it is trained"
        norm = "BN" if mobile or batch >= 4 else "GN"
        of_norm = "the backbone starts at random, so its norms are trained too"
    elif mobile or not machine.gpu:
        frozen, why = 2, "the first layers of ImageNet's weights fit any image, and training them makes steps longer"
        norm, of_norm = "BN", "the statistics of the layers that learn follow the new images"
    else:
        frozen, why = 2, "the first layers of ImageNet's weights fit any image"
        norm, of_norm = "FrozenBN", "statistics of a few images would be worse than those of ImageNet"
    picks.set("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", frozen, why)
    if key := norm_key(body):
        picks.set(key, norm, of_norm)


def _task(picks: Picks, channels: int) -> None:
    task = picks.wish.task
    if task == "mask":
        picks.set("MODEL.MASK_ON", True, option("task", "mask"))
        picks.set("MODEL.ROI_MASK_HEAD.CONV_DIM", channels, "as wide as the pyramid")
        picks.set("SOLVER.BEST_METRIC", "segm/AP", "masks are what is asked for")
    if task == "keypoint":
        picks.set("MODEL.KEYPOINT_ON", True, option("task", "keypoint"))
        dims = (channels,) * (4 if channels < 256 else 8)
        picks.set("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", dims, "as wide as the pyramid")
        picks.set("SOLVER.BEST_METRIC", "keypoints/AP", "keypoints are what is asked for")


def _input(picks: Picks, facts: DataFacts, size: Size) -> None:
    """Tiles and input size, and the anchors and regions that follow from them."""
    if facts.cut is not None:
        picks.set(facts.cut.key, facts.cut.value, facts.cut.reason)
    chosen = input_size(facts, *size.shorter)
    shorter = max(picks.set("INPUT.MIN_SIZE_TRAIN", (chosen.shorter,), chosen.reason))
    aspect = chosen.longer / chosen.shorter
    longer = math.ceil(shorter * aspect) if picks.is_given("INPUT.MIN_SIZE_TRAIN") else chosen.longer
    longer = picks.set(
        "INPUT.MAX_SIZE_TRAIN", longer, "nine images of ten are no longer, scaled as one of the usual shorter side"
    )
    picks.set("INPUT.MIN_SIZE_TEST", shorter, "as in training")
    picks.set("INPUT.MAX_SIZE_TEST", longer, "as in training")
    probability, why = horizontal(facts)
    picks.set("INPUT.FLIP_PROB", probability, why)
    probability, why = vertical(facts)
    picks.set("INPUT.VERTICAL_FLIP_PROB", probability, why)
    found = anchors(facts, int(shorter), int(longer))
    sizes = picks.set("MODEL.RPN.ANCHOR_SIZES", tuple((s,) for s in found.sizes), found.sizes_reason)
    picks.set("MODEL.RPN.ASPECT_RATIOS", found.ratios, found.ratios_reason)
    finest = min(sizes[0])
    why = f"regions are pooled from the level of their anchors, which begin at {finest:g}: 224 x {finest:g} / 32"
    picks.set("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", canonical_size(finest), why)
    side = float(np.median(facts.sides(int(shorter), int(longer))))
    _box_heads(picks, side)
    _tiny(picks, size, side)


def _box_heads(picks: Picks, side: float) -> None:
    """One box head, or a cascade of three, for objects of a typical side in pixels of the input."""
    if picks.wish.task == "keypoint" or side < CASCADE_FROM:
        return
    why = f"objects are large enough ({side:.0f} pixels at this size) for three box heads to fit boxes ever better"
    if picks.set("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", why) == "CascadeROIHeads":
        picks.set("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "as the heads of a cascade have it")


def _tiny(picks: Picks, size: Size, side: float) -> None:
    """What finds objects of a few pixels, unless the command line has a say in any of it."""
    if side >= TINY_BELOW or picks.wish.task == "keypoint" or any(picks.is_given(key) for key in _OF_TINY):
        return
    why = f"the usual object has a side of {side:.0f} at this size, which no anchor fits"
    picks.set("MODEL.RPN.ASSIGNER", "rfla", f"{why}: objects learn from the receptive fields most like them")
    picks.drop("MODEL.RPN.ANCHOR_SIZES", "MODEL.RPN.ASPECT_RATIOS")  # which it does without
    picks.set("MODEL.BACKBONE.CONV_BODY", size.body.replace("-FPN", "-EFPN"), f"{why}: a pyramid with a finer level")
    picks.set("MODEL.EFPN.TRANSFER", "plain", "its features from the body alone: texture transfer cost AP")
    picks.set("MODEL.RPN.FINEST_LEVEL", "p2", "the finer level is for the second stage")
    picks.set("MODEL.ROI_HEADS.NAME", "ExtendedROIHeads", "the second stage that pools small regions from it")


def _proposals(picks: Picks, size: Size) -> None:
    before, train, test = size.proposals
    suits = f"in a model for {size.suits}"
    picks.set("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", before, f"candidates of a level {suits}")
    picks.set("MODEL.RPN.PRE_NMS_TOP_N_TEST", before, "as in training")
    picks.set("MODEL.RPN.POST_NMS_TOP_N_TRAIN", train, f"candidates of an image {suits}")
    picks.set("MODEL.RPN.POST_NMS_TOP_N_TEST", test, f"candidates of an image in evaluation, {suits}")
    picks.set("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", size.regions, f"RoIs that the box head is trained on, {suits}")
    picks.set("MODEL.ROI_HEADS.POSITIVE_FRACTION", POSITIVE_FRACTION, "few are sampled; half of them may be objects")
    picks.set("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", size.head, f"width of the box head {suits}")
    picks.set("MODEL.RPN.SMOOTH_L1_BETA", SMOOTH_L1_BETA, "plain L1, with which boxes become exact in few steps")
    picks.set("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", SMOOTH_L1_BETA, "plain L1, as for the proposals")


def _batch(picks: Picks, facts: DataFacts, machine: Machine, size: Size) -> int:
    """SOLVER.IMS_PER_BATCH: what fits, a multiple of the processes, no more than there are images."""
    scales = resize_scales(facts.sizes_hw, max(picks.get("INPUT.MIN_SIZE_TRAIN")), picks.get("INPUT.MAX_SIZE_TRAIN"))
    pixels = float(np.quantile(facts.sizes_hw.prod(axis=1) * scales**2, 0.9))
    share, why = size.batch, f"usual for a model for {size.suits}"
    if share < SCRATCH_BATCH and not picks.get("MODEL.WEIGHTS"):
        share, why = SCRATCH_BATCH, "norms that start at random want some images"
    memory = machine.gpu_memory if machine.gpu else machine.memory // machine.ranks
    fits = int(MEMORY_SHARE * memory / (size.bytes_per_pixel * pixels)) if memory else share
    if fits < share:
        share, why = max(1, fits), f"what fits into {memory / GIGABYTE:.0f} GB at this input size"
    if picks.wish.most_per_process and picks.wish.most_per_process < share:
        share, why = picks.wish.most_per_process, "more do not fit into memory, as was tried"
    if not machine.gpu and machine.ranks > 1:
        share = max(1, share // machine.ranks)
    if facts.images < share * machine.ranks:
        share, why = max(1, facts.images // machine.ranks), f"there are {facts.images} training images"
    ranks = f", on each of {machine.ranks} processes" if machine.ranks > 1 else ""
    return int(picks.set("SOLVER.IMS_PER_BATCH", share * machine.ranks, why + ranks))


def _detections(picks: Picks, facts: DataFacts) -> None:
    """Detections per image, and proposals enough for them."""
    least, factor = DETECTIONS
    wanted = min(MOST_DETECTIONS, math.ceil(facts.most_objects * factor / 100) * 100)
    base = picks.get("TEST.DETECTIONS_PER_IMG") if picks.wish.base is not None else least
    why = f"the fullest image holds {counted(facts.most_objects, 'object')}"
    kept = int(picks.set("TEST.DETECTIONS_PER_IMG", max(base, least, wanted), why))
    keys = ("PRE_NMS_TOP_N_TEST", "POST_NMS_TOP_N_TEST", "PRE_NMS_TOP_N_TRAIN", "POST_NMS_TOP_N_TRAIN")
    for key in (f"MODEL.RPN.{name}" for name in keys):
        if picks.get(key) < kept:
            picks.set(key, kept, f"no fewer than the {kept} detections that an image may have")


def _data(picks: Picks, facts: DataFacts) -> None:
    if picks.wish.task == "keypoint" and int((facts.objects == 0).sum()):
        picks.set("DATALOADER.EMPTY", "drop", "images without objects have no keypoints to learn")
    if facts.missing:
        of = f" of {facts.images + facts.missing}" if facts.views == "images" else ""
        picks.set("DATALOADER.ON_ERROR", "skip", f"{facts.missing}{of} images do not exist and are left out")
    elif facts.unusable:
        what = "image cannot be read or is" if facts.unusable == 1 else "images cannot be read or are"
        why = f"{facts.unusable} {what} not of the size that was annotated; a training would stop there"
        picks.set("DATALOADER.ON_ERROR", "skip", why)


# ------------------------------------------------------------------------------------------------- solver
def _solver(picks: Picks, length: Length, rate: float, why: str) -> None:
    """Rate, schedule and periods."""
    steps = length.steps
    picks.set("SOLVER.BASE_LR", float(f"{rate:.3g}"), why)
    if picks.wish.base is None:
        picks.set("SOLVER.OPTIMIZER", OPTIMIZER, "sure-footed with small batches and short runs")
        picks.set("SOLVER.WEIGHT_DECAY", WEIGHT_DECAY, f"usual with {OPTIMIZER}")
        picks.set("SOLVER.LR_SCHEDULE", "cosine", "ends at 0 whatever the length")
        picks.set("SOLVER.CLIP_GRAD_NORM", CLIP_GRAD_NORM, "the first steps of heads that start at random")
        decay = next(decay for below, decay in EMA if steps < below)
        picks.set("SOLVER.EMA_DECAY", decay, f"the average over the last {1 / (1 - decay):.0f} of {steps} steps")
    else:
        steps_of_base(picks, steps)
    longest = WARMUP_STEPS if picks.wish.base is None else whole_duration(picks.get("SOLVER.WARMUP_ITERS"), steps)
    why = f"no more than {100 * WARMUP_SHARE:.0f} % of the steps"
    picks.set("SOLVER.WARMUP_ITERS", min(longest, int(steps * WARMUP_SHARE)), why)
    picks.set("SOLVER.LOG_PERIOD", max(1, min(20, steps // 20)), f"some lines of a training of {steps} steps")
    every = min(math.ceil(steps / 4), 1000)
    picks.set("SOLVER.CHECKPOINT_PERIOD", every, "what --resume can lose at most")
    picks.set("SOLVER.KEEP_LAST", KEPT, "to go on from, and in case the newest is damaged")
