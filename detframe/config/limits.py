"""What the values of the keys may be, but for MODEL (limits_model.py): a rule for each number, word and list.

A ceiling is no recommendation: beyond it lies a slip, not a setting.
"""

from __future__ import annotations

from functools import partial

from detframe.config.bounds import Choice, Duration, Each, Name, Number, Rule, Text
from detframe.config.limits_model import MODEL_RULES, RULES_OF_HEADS

Whole = partial(Number, whole=True)
FRACTION = Number(at_least=0, at_most=1)
SIDE = Whole(at_least=0, ceiling=2**15)  # of an image, in pixels; 0 leaves it as it is
LONGER_SIDE = Whole(at_least=0, ceiling=2**20)
STRENGTH = Number(at_least=0, ceiling=100)
DECAY = Number(at_least=0, ceiling=1e6, also=(-1,))
FACTOR = Number(at_least=0, ceiling=1e6)
PIXEL = partial(Each, sizes=(3,), size_name="three numbers")
OFTEN = Whole(above=0, ceiling=1_000_000_000)
DATA_SETS = Each(Text(empty=False))

RULES: dict[str, Rule] = {
    "CUSTOM_IMPORTS": Each(Text(empty=False)),
    "OUTPUT_DIR": Text(empty=False),
    "SEED": Whole(at_least=0, ceiling=2**53, also=(-1,)),
    "INPUT.FORMAT": Choice(("RGB", "BGR")),
    "INPUT.PIXEL_MEAN": PIXEL(Number(ceiling=1e6)),
    "INPUT.PIXEL_STD": PIXEL(Number(above=0, ceiling=1e6)),
    "INPUT.MIN_SIZE_TRAIN": Each(SIDE, filled=True),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": Choice(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": LONGER_SIDE,
    "INPUT.MIN_SIZE_TEST": SIDE,
    "INPUT.MAX_SIZE_TEST": LONGER_SIDE,
    "INPUT.FLIP_PROB": FRACTION,
    "INPUT.VERTICAL_FLIP_PROB": FRACTION,
    "INPUT.LSJ.SIZE": Whole(above=0, ceiling=2**15),
    "INPUT.LSJ.MIN_SCALE": Number(above=0, ceiling=100),
    "INPUT.LSJ.MAX_SCALE": Number(above=0, ceiling=100),
    "INPUT.COPY_PASTE_PROB": FRACTION,
    "INPUT.BRIGHTNESS": STRENGTH,
    "INPUT.CONTRAST": STRENGTH,
    "INPUT.SATURATION": STRENGTH,
    "INPUT.HUE": Number(at_least=0, at_most=0.5),
    "DATASETS.TRAIN": DATA_SETS,
    "DATASETS.TEST": DATA_SETS,
    "DATASETS.CATALOG": Text(),
    "DATASETS.LIMIT": Whole(at_least=0, ceiling=2**31),
    "DATALOADER.NUM_WORKERS": Whole(at_least=0, ceiling=1000, also=(-1,)),
    "DATALOADER.EMPTY": Choice(("keep", "drop")),
    "DATALOADER.ON_ERROR": Choice(("raise", "skip")),
    "SOLVER.OPTIMIZER": Name(empty=False, registry="OPTIMIZERS"),
    "SOLVER.IMS_PER_BATCH": Whole(above=0, ceiling=100_000),
    "SOLVER.ACCUMULATE_STEPS": Whole(above=0, ceiling=100_000),
    "SOLVER.MAX_ITER": Duration(),
    "SOLVER.BASE_LR": Number(above=0),
    "SOLVER.BIAS_LR_FACTOR": FACTOR,
    "SOLVER.BACKBONE_LR_FACTOR": FACTOR,
    "SOLVER.MOMENTUM": Number(at_least=0, below=1),
    "SOLVER.BETAS": Each(Number(at_least=0, below=1), sizes=(2,), size_name="two numbers"),
    "SOLVER.WEIGHT_DECAY": Number(at_least=0, ceiling=1e6),
    "SOLVER.WEIGHT_DECAY_BIAS": DECAY,
    "SOLVER.WEIGHT_DECAY_NORM": DECAY,
    "SOLVER.LR_SCHEDULE": Name(empty=False, registry="LR_SCHEDULES"),
    "SOLVER.STEPS": Each(Duration()),
    "SOLVER.GAMMA": Number(at_least=0, ceiling=1000),
    "SOLVER.COSINE_END_FACTOR": FRACTION,
    "SOLVER.WARMUP_ITERS": Duration(),
    "SOLVER.WARMUP_FACTOR": FRACTION,
    "SOLVER.WARMUP_METHOD": Choice(("linear", "constant")),
    "SOLVER.CLIP_GRAD_NORM": Number(at_least=0),
    "SOLVER.CLIP_GRAD_VALUE": Number(at_least=0),
    "SOLVER.AMP": Choice(("auto", "off", "bf16", "fp16")),
    "SOLVER.EMA_DECAY": Number(at_least=0, below=1),
    "SOLVER.CHECKPOINT_PERIOD": Duration(),
    "SOLVER.KEEP_LAST": Whole(at_least=0, ceiling=1_000_000_000),
    "SOLVER.REQUEUE_EXIT_CODE": Whole(at_least=0, at_most=255),
    "SOLVER.LOG_PERIOD": OFTEN,
    "SOLVER.IMAGE_PERIOD": Duration(),
    "SOLVER.BEST_METRIC": Text(empty=False),
    "SOLVER.EARLY_STOP_PATIENCE": Whole(at_least=0, ceiling=1_000_000_000),
    "SOLVER.EARLY_STOP_MIN_DELTA": Number(at_least=0, ceiling=100),
    "TEST.EVALUATOR": Name(empty=False, registry="EVALUATORS"),
    "TEST.TT100K_SCORE_THRESH": FRACTION,
    "TEST.EVAL_PERIOD": Duration(),
    "TEST.IMS_PER_BATCH": Whole(above=0, ceiling=100_000),
    "TEST.DETECTIONS_PER_IMG": Whole(above=0, ceiling=1_000_000),
    "TEST.VISUALIZE": Whole(at_least=0, ceiling=1_000_000),
    **MODEL_RULES,
    **RULES_OF_HEADS,
}
