"""Every config key: one tree of sections, detframe's own here and those that outside code adds."""

from __future__ import annotations

from functools import cache

from detframe.config.bounds import Choice, shown
from detframe.config.key import Key, Section, section
from detframe.config.keys.backbone import BACKBONE, MOBILENET, RESNETS
from detframe.config.keys.common import (
    ARCHITECTURE,
    CLASS_WEIGHTS,
    DIFFERENT_NAMES,
    FIRST_WEIGHTS,
    HOW,
    LENGTH,
    MEASURES,
    NAMES,
    TARGETS,
    TRAINED,
)
from detframe.config.keys.data import DATALOADER, DATASETS
from detframe.config.keys.dense import ATSS, DYHEAD, FCOS, GFL, RETINANET, RPN, TOOD
from detframe.config.keys.input import INPUT
from detframe.config.keys.pyramids import DISTILL, EFPN, FPN
from detframe.config.keys.roi import (
    POINT_HEAD,
    ROI_BOX_CASCADE_HEAD,
    ROI_BOX_HEAD,
    ROI_HEADS,
    ROI_KEYPOINT_HEAD,
    ROI_MASK_HEAD,
)
from detframe.config.keys.run import RUN
from detframe.config.keys.solver import SOLVER
from detframe.config.keys.test import TEST
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.registry import calling_module

COMPILED = {
    "off": "",
    "dense": "backbone, pyramid and dense head, each as one graph; any detector",
    "step": "forward pass, assignment, losses and backward pass of training as one graph, of FCOS, RetinaNet, RPN, "
    "Faster, Cascade and Keypoint R-CNN; evaluation as `dense`",
}

MODEL = section(
    resume=ARCHITECTURE,
    DEVICE=Key("auto", '"auto" (CUDA where there is one, else mps or xpu, else the CPU), "cpu", "cuda", "cuda:1", '
        '"mps" or "xpu"', resume=HOW),
    WEIGHTS=Key("", 'Checkpoint to start from: a file, an http(s) address (with "#sha256=..." to have it checked), '
        '"torchvision://ResNet50_Weights.IMAGENET1K_V1", "msra://R-50" and others (docs/weights.md), or "" (random)',
        resume=FIRST_WEIGHTS),
    ALLOW_PARTIAL_WEIGHTS=Key(False, "Accept WEIGHTS of another architecture, which fill less than 90 % of the "
        "backbone or only part of a head", resume=FIRST_WEIGHTS),
    DETECTOR=Key("GeneralizedRCNN", "The whole detector: one of your own (docs/adding_a_detector.md), or backbone, RPN "
        "and ROI heads as their keys choose them. MODEL.DISTILL.ON takes DistilledRCNN in place of the default",
        registry="META_ARCHITECTURES"),
    NUM_CLASSES=Key(0, "Number of foreground classes K; 0 takes it from the training data", at_least=0,
        ceiling=100_000),
    CLASS_WEIGHTS=Key("", "How much an anchor, location or RoI with an object of a class counts in the loss of the "
        'classes, as {car: 2, bus: 0.5}; classes without a number, and background, count 1. "auto": by the training '
        "data, the rarer the more (docs/losses.md); the config of a run holds what it was", like=CLASS_WEIGHTS,
        resume=TARGETS),
    LABEL_SMOOTHING=Key(0.0, "With MODEL.ROI_BOX_HEAD.CLS_LOSS cross_entropy: the share of the target that is spread "
        "over background and all classes (arXiv:1512.00567, section 7)", at_least=0, below=1, resume=TARGETS),
    NWD_CONSTANT=Key(12.8, "C of the normalised Wasserstein distance, NWD = exp(-W / C), in pixels of the model's "
        "input: about the mean side of the objects there (12.8: AI-TOD, arXiv:2110.13389). Another input size wants "
        "another one", like=LENGTH, resume=MEASURES),
    LEGACY_BOXES=Key(False, "Inside the model, x2 and y2 of a box are its last pixels, so that its width is x2 - x1 + "
        "1 (in IoU, box encoding, clipping and sizes), as in Detectron, maskrcnn-benchmark and FCOS. Targets and "
        "predictions are the same either way"),
    IGNORE_REGIONS=Key("cut", "Where the losses learn nothing of the background: in anchors and proposals with half of "
        "their area in such a region, in locations of FCOS inside of it (docs/small_objects.md)", choices={
        "off": "everywhere is background where no object is",
        "cut": "in what a tile (INPUT.TILES) shows of objects that are below MIN_VISIBLE there; whole images have none",
        "crowd": "in crowds (`iscrowd`, and what other formats mark as groups, difficult or to be ignored)",
        "all": "in both"}, resume=TARGETS),
    CHANNELS_LAST=Key(True, "Keep images and feature maps in channels_last memory format (faster convolutions on CPU "
        "and on tensor cores)", resume=HOW),
    CHECKPOINT_ACTIVATIONS=Key((), "Stages of the backbone, as [res2, res3], whose activations are computed again in "
        "the backward pass of training, and need no memory until then; losses and gradients stay the same. The finest "
        "stages hold most (docs/solver.md)", like=DIFFERENT_NAMES, resume=HOW),
    COMPILE=Key("off", "What torch.compile makes graphs of (docs/compiling.md); True is `dense`", choices=COMPILED,
        like=Choice(tuple(COMPILED), true="dense"), resume=HOW),
    BACKBONE=BACKBONE,
    FREEZE=Key((), 'Freeze the parameters whose names match one of these shell patterns, e.g. "backbone.fpn.*" or '
        '"*.bn?.*"; a pattern that matches nothing is an error', like=NAMES, resume=TRAINED),
    RESNETS=RESNETS,
    MOBILENET=MOBILENET,
    FPN=FPN,
    EFPN=EFPN,
    DISTILL=DISTILL,
    RPN=RPN,
    FCOS=FCOS,
    ATSS=ATSS,
    GFL=GFL,
    TOOD=TOOD,
    DYHEAD=DYHEAD,
    RETINANET=RETINANET,
    ROI_HEADS=ROI_HEADS,
    ROI_BOX_HEAD=ROI_BOX_HEAD,
    ROI_BOX_CASCADE_HEAD=ROI_BOX_CASCADE_HEAD,
    MASK_ON=Key(False, "Predict a mask for each detection"),
    ROI_MASK_HEAD=ROI_MASK_HEAD,
    POINT_HEAD=POINT_HEAD,
    KEYPOINT_ON=Key(False, "Predict keypoints for each detection"),
    ROI_KEYPOINT_HEAD=ROI_KEYPOINT_HEAD,
)

SCHEMA = Section(
    {**RUN, "MODEL": MODEL, "INPUT": INPUT, "DATASETS": DATASETS, "DATALOADER": DATALOADER, "SOLVER": SOLVER}
    | {"TEST": TEST}
)

ADDED: dict[str, str] = {}
"""The sections of outside code, by their dotted paths, and the modules that have added them."""


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted path, in order."""
    return dict(SCHEMA.leaves())


def add_section(path: str, added: Section) -> None:
    """Add keys of your own to every config, as a module that CUSTOM_IMPORTS names does when it is imported.

        add_section("MODEL.MY_HEAD", section(DIM=Key(64, "Channels of my head", at_least=1)))

    They are checked, dumped, carried in checkpoints and explained by `--print-config` like detframe's own. The same
    section may be added again.

    Raises:
        ValueError: there are other keys of that name, or no section to add it to.
        TypeError: it is no section.
    """
    if not isinstance(added, Section):
        raise InvalidTypeError(f"the section {path} must be made with section(...), not {shown(added)}")
    parents, _, name = path.rpartition(".")
    parent: Key | Section | None = SCHEMA
    for step in parents.split(".") if parents else ():
        parent = parent.get(step) if isinstance(parent, Section) else None
    if not isinstance(parent, Section):
        raise InvalidValueError(f"the section {path} cannot be added: the config has no section {parents}")
    fresh = section(None, **{name: added})
    if name in parent and parent[name] != fresh[name]:
        raise InvalidValueError(f"the section {path} cannot be added: the config has other keys of that name")
    parent.update(fresh)
    ADDED[path] = calling_module(1)
    all_keys.cache_clear()
