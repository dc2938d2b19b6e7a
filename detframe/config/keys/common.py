"""What several keys share: what their values may be, and what `--resume` does with a change of them.

A ceiling is no recommendation: beyond it lies a slip, not a setting.
"""

from __future__ import annotations

from functools import partial

from detframe.config.bounds import Each, Number, Text
from detframe.config.by_class import ByClass
from detframe.config.key import CONTINUES, FREE, REFUSED, Resume

Whole = partial(Number, whole=True)
FRACTION = Number(at_least=0, at_most=1)
PROBABILITY = Number(above=0, below=1)
WEIGHT = Number(at_least=0, ceiling=1e6)  # of a loss, and other factors
STRENGTH = Number(at_least=0, ceiling=100)
LENGTH = Number(above=0, ceiling=1e6)  # in pixels
OR_NONE = Number(at_least=0, ceiling=1e6, also=(-1,))  # -1 has a meaning of its own
CHANNELS = Whole(above=0, ceiling=2**13)
WIDE = Whole(above=0, ceiling=2**14)  # channels of a fully connected layer
LAYERS = Whole(at_least=0, ceiling=100)
COUNT = Whole(above=0, ceiling=1_000_000)  # of anchors, proposals or points
BATCH = Whole(above=0, ceiling=100_000)
RESOLUTION = Whole(above=0, ceiling=512)  # of what is pooled
SAMPLING_RATIO = Whole(at_least=0, ceiling=64, also=(-1,))
SIDE = Whole(at_least=0, ceiling=2**15)  # of an image, in pixels; 0 leaves it as it is
LONGER_SIDE = Whole(at_least=0, ceiling=2**20)
NAMES = Each(Text(empty=False))
DIFFERENT_NAMES = Each(Text(empty=False), once=True)
BOX_WEIGHTS = Each(LENGTH, sizes=(4,))
RATIOS = Each(Number(above=0, ceiling=1e4), filled=True, wrapped=True)
ANCHOR_SIZES = Each(Each(LENGTH, filled=True), filled=True, bare=True)

CLASS_WEIGHTS = ByClass(("auto",), ceiling=1e6)
BOX_LOSS = {"smooth_l1": "on the deltas", "iou": "-ln IoU, on the boxes", "linear_iou": "1 - IoU, on the boxes",
    "giou": "1 - GIoU, on the boxes", "diou": "with the distance of the centres, on the boxes (arXiv:1911.08287)",
    "ciou": "with that and the aspect ratio, on the boxes (arXiv:1911.08287)",
    "nwd": "1 - NWD, on the boxes, with MODEL.NWD_CONSTANT (arXiv:2110.13389)"}
NORM = {"": "none", "GN": "", "BN": "", "SyncBN": ""}

HOW = Resume(FREE, "how the work is done or what is written; what is learned stays the same")
FIRST_WEIGHTS = Resume(FREE, "it is for the first weights, and a run that goes on takes those of its checkpoint")
SCHEDULE = Resume(CONTINUES, "from here on the learning rate is that of the new schedule at this iteration")
NEXT_STEP = Resume(CONTINUES, "it holds from the next step on, and the optimizer keeps its state")
SAME_IMAGES = Resume(CONTINUES, "the training images are the same, in the same order (others are refused)")
LATER_IMAGES = Resume(CONTINUES, "it holds for the images that are loaded from here on")
TRAINED = Resume(CONTINUES, "what is trained changes; the optimizer keeps its state of all that stays")
TARGETS = Resume(CONTINUES, "the same network, from here on with these targets, samples or losses")
MEASURES = Resume(
    CONTINUES,
    "metrics before and after cannot be compared: the best value so far is forgotten, and its model kept as "
    "model_best_before_ITERATION.pth",
    measures=True,
)
IMAGES = Resume(REFUSED, "the network has learned to see images in this form")
ARCHITECTURE = Resume(REFUSED, "another architecture")
