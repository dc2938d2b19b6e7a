"""Every config key, its default, and one comment on each.

Keys are made here and, for MODEL, in model_defaults.py and roi_defaults.py.
Sizes are in pixels, durations in iterations (an int) or epochs (a string such as "12ep" or "0.5ep").
"""

from __future__ import annotations

from detframe.config.config import ConfigNode
from detframe.config.roi_defaults import MODEL

_C = ConfigNode()

# Python modules or files that register your own classes, e.g. ["my_pkg.my_backbone", "path/to/file.py"]
_C.CUSTOM_IMPORTS = ()
# Where a run writes its log, metrics, checkpoints and pictures
_C.OUTPUT_DIR = "output"
# Seed of initial weights, data order and augmentation; -1 draws one and writes it into config.yaml
_C.SEED = 0
# Ask PyTorch for deterministic algorithms everywhere (on a GPU slower; the CPU is deterministic anyway)
_C.DETERMINISTIC = False

# What a model is made of has files of its own
_C.MODEL = MODEL

# ---------------------------------------------------------------------------------------------- INPUT
_C.INPUT = ConfigNode()
# Channel order that the model was trained with; images are always handed in as RGB. Set with WEIGHTS where these are
# known (docs/weights.md), as are PIXEL_MEAN, PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1
_C.INPUT.FORMAT = "RGB"
# Mean and deviation of the pixels from 0 to 255, in the order of FORMAT
_C.INPUT.PIXEL_MEAN = (123.675, 116.28, 103.53)
_C.INPUT.PIXEL_STD = (58.395, 57.12, 57.375)
# Length of the shorter side in training; of several one is drawn per image; 0 leaves images as they are
_C.INPUT.MIN_SIZE_TRAIN = (800,)
# With two values in MIN_SIZE_TRAIN: "choice" draws one of them, "range" any whole number between them
_C.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
# Largest length of the longer side in training; 0 is no limit
_C.INPUT.MAX_SIZE_TRAIN = 1333
_C.INPUT.MIN_SIZE_TEST = 800
_C.INPUT.MAX_SIZE_TEST = 1333
# Probability of a horizontal flip; keypoints exchange left and right
_C.INPUT.FLIP_PROB = 0.5
# Probability of a vertical flip
_C.INPUT.VERTICAL_FLIP_PROB = 0.0
_C.INPUT.LSJ = ConfigNode()
# Large-scale jitter (arXiv:2012.07177) instead of MIN_SIZE_TRAIN: images are resized to fit a square of SIZE pixels
# times a random scale, and cut to SIZE
_C.INPUT.LSJ.ON = False
_C.INPUT.LSJ.SIZE = 1024
_C.INPUT.LSJ.MIN_SCALE = 0.1
_C.INPUT.LSJ.MAX_SCALE = 2.0
# Probability that an image gets some of another training image's objects, cut out along their masks (arXiv:2012.07177)
_C.INPUT.COPY_PASTE_PROB = 0.0
# Strength of the colour jitter, as in torchvision's ColorJitter; 0 is off
_C.INPUT.BRIGHTNESS = 0.0
_C.INPUT.CONTRAST = 0.0
_C.INPUT.SATURATION = 0.0
_C.INPUT.HUE = 0.0

# ---------------------------------------------------------------------------------------------- DATA
_C.DATASETS = ConfigNode()
# Names from the catalog; several are joined
_C.DATASETS.TRAIN = ()
_C.DATASETS.TEST = ()
# A catalog file of your own, whose entries come before those of datasets/catalog.yaml
_C.DATASETS.CATALOG = ""
# Use only so many images of each, the first ones, to try something or to overfit on purpose; 0 is all
_C.DATASETS.LIMIT = 0

_C.DATALOADER = ConfigNode()
# Worker processes per rank; -1 takes the CPU cores divided by the ranks, at most 8 (with two cores or fewer: 1)
_C.DATALOADER.NUM_WORKERS = -1
# Put images of similar shape (wide or tall) into one batch, which wastes less padding
_C.DATALOADER.ASPECT_RATIO_GROUPING = True
# Training images without objects: "keep" (they teach what is background) or "drop"
_C.DATALOADER.EMPTY = "keep"
# An image that cannot be read: "raise" stops and names it, "skip" leaves it out and counts it
_C.DATALOADER.ON_ERROR = "raise"

# ---------------------------------------------------------------------------------------------- SOLVER
_C.SOLVER = ConfigNode()
# Member of OPTIMIZERS: "SGD" or "AdamW"
_C.SOLVER.OPTIMIZER = "SGD"
# Images per optimizer step over all ranks and accumulation steps
_C.SOLVER.IMS_PER_BATCH = 16
# Split each rank's share into this many passes, to fit memory; the batch stays IMS_PER_BATCH, and losses are normalised
# over all of it, for which each part costs a forward pass without gradients more
_C.SOLVER.ACCUMULATE_STEPS = 1
# Length of the training: iterations, or epochs as "12ep"
_C.SOLVER.MAX_ITER = 90000
# Learning rate after warm-up
_C.SOLVER.BASE_LR = 0.02
# Learning rate of biases over that of weights (maskrcnn-benchmark: 2)
_C.SOLVER.BIAS_LR_FACTOR = 1.0
# Learning rate of the backbone over that of the rest
_C.SOLVER.BACKBONE_LR_FACTOR = 1.0
# SGD's momentum, Nesterov's where NESTEROV is on
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.NESTEROV = False
# AdamW's decay rates of the two moments
_C.SOLVER.BETAS = (0.9, 0.999)
_C.SOLVER.WEIGHT_DECAY = 1e-4
# Weight decay of biases; -1 takes WEIGHT_DECAY (maskrcnn-benchmark: 0)
_C.SOLVER.WEIGHT_DECAY_BIAS = -1.0
# Weight decay of norm layers; -1 takes WEIGHT_DECAY (detectron2: 0)
_C.SOLVER.WEIGHT_DECAY_NORM = 0.0
# Member of LR_SCHEDULES: "step" or "cosine"
_C.SOLVER.LR_SCHEDULE = "step"
# "step": multiply the rate by GAMMA at each of these iterations (or epochs)
_C.SOLVER.STEPS = (60000, 80000)
_C.SOLVER.GAMMA = 0.1
# "cosine": the rate at the end over BASE_LR
_C.SOLVER.COSINE_END_FACTOR = 0.0
# Warm-up: iterations (or epochs), factor at the start, "linear" or "constant"
_C.SOLVER.WARMUP_ITERS = 1000
_C.SOLVER.WARMUP_FACTOR = 0.001
_C.SOLVER.WARMUP_METHOD = "linear"
# Scale gradients down to this global norm; 0 is off
_C.SOLVER.CLIP_GRAD_NORM = 0.0
# Clamp every gradient value to this magnitude; 0 is off
_C.SOLVER.CLIP_GRAD_VALUE = 0.0
# Mixed precision: "auto" (bf16 where the hardware computes in it), "off", "bf16", "fp16" (with loss scaling, CUDA only)
_C.SOLVER.AMP = "auto"
# Decay per iteration of an exponential moving average of the weights, which is then evaluated and saved; 0 is off
_C.SOLVER.EMA_DECAY = 0.0
# Save a checkpoint this often; 0 only at the end
_C.SOLVER.CHECKPOINT_PERIOD = 5000
# Periodic checkpoints kept (the newest); 0 keeps all. model_best.pth and model_final.pth always stay
_C.SOLVER.KEEP_LAST = 3
# Exit code of a run that SIGTERM or SIGUSR1 has stopped, saved, so that a script can queue it again; 0: 143 and 138
_C.SOLVER.REQUEUE_EXIT_CODE = 0
# Log, and read losses off the device, this often
_C.SOLVER.LOG_PERIOD = 20
# Draw training images with their targets into TensorBoard this often; 0 only the first batch
_C.SOLVER.IMAGE_PERIOD = 0
# Metric of the evaluation that chooses model_best.pth
_C.SOLVER.BEST_METRIC = "bbox/AP"
# Stop when BEST_METRIC has not risen by EARLY_STOP_MIN_DELTA in this many evaluations; 0 is off
_C.SOLVER.EARLY_STOP_PATIENCE = 0
_C.SOLVER.EARLY_STOP_MIN_DELTA = 0.0

# ---------------------------------------------------------------------------------------------- TEST
_C.TEST = ConfigNode()
# Member of EVALUATORS: "coco"; "tt100k", which adds recall and accuracy by size of object; or "proposals", the average
# recall of boxes whatever their class
_C.TEST.EVALUATOR = "coco"
# "tt100k": recall and accuracy are those of the detections from this score on
_C.TEST.TT100K_SCORE_THRESH = 0.5
# Evaluate during training this often (iterations or epochs); 0 only at the end
_C.TEST.EVAL_PERIOD = 0
# Images per forward pass over all ranks
_C.TEST.IMS_PER_BATCH = 8
# Detections kept per image, in the model and in the evaluator; proposals have limits of their own (MODEL.RPN)
_C.TEST.DETECTIONS_PER_IMG = 100
# Pictures of predictions beside ground truth that an evaluation draws
_C.TEST.VISUALIZE = 8


def get_cfg() -> ConfigNode:
    """A fresh copy of the default config, closed: unknown keys are errors in files, overrides and assignments."""
    return _C.clone().close()
