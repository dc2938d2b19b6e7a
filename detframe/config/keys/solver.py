"""The keys of training: its length, the optimizer, the learning rate, and what is saved."""

from __future__ import annotations

from detframe.config.bounds import Number, Text
from detframe.config.key import CONTINUES, REFUSED, Key, Resume, section
from detframe.config.keys.common import BATCH, HOW, MEASURES, NEXT_STEP, OR_NONE, SCHEDULE, STRENGTH, WEIGHT
from detframe.config.pairs import Pair

AVERAGED = Resume(CONTINUES, "what has been averaged so far stays in the mean, and from here on weights are taken in "
    "by the new rule; switched off, the raw weights are trained on and saved")

SOLVER = section(
    resume=SCHEDULE,
    OPTIMIZER=Key("SGD", "The optimizer; detframe has SGD and AdamW", registry="OPTIMIZERS", resume=Resume(REFUSED,
        "its state means nothing to another optimizer")),
    IMS_PER_BATCH=Key(16, "Images per optimizer step over all ranks and accumulation steps", like=BATCH,
        resume=Resume(CONTINUES, "the next step begins at the first image not seen yet; durations in epochs keep their "
        "length in images, those in iterations keep their number; the learning rate is what BASE_LR and LR_RULE say")),
    ACCUMULATE_STEPS=Key(1, "Split each rank's share into this many passes, to fit memory; the batch stays "
        "IMS_PER_BATCH, and losses are normalised over all of it, for which each part costs one more forward pass, "
        "without gradients", like=BATCH, resume=HOW),
    MAX_ITER=Key(90000, "Length of the training", duration=True, place=True, share=False, resume=Resume(CONTINUES,
        "the run ends there")),
    MAX_MINUTES=Key(0.0, "End the run, final evaluation included, after so many minutes, on whatever machine; "
        "MAX_ITER, STEPS and WARMUP_ITERS then say the shape of the learning rate, which is as long as the time "
        "(docs/experiments.md). 0 is off", at_least=0, ceiling=1_000_000, resume=Resume(CONTINUES, "the time used so "
        "far counts, and the learning rate is that of its part of the new time; it cannot be switched on or off")),
    BASE_LR=Key(0.02, "Learning rate after warm-up, at LR_RULE none of any batch", above=0),
    LR_RULE=Key("none", "How the learning rate follows the batch. The config.yaml of a run holds what came of it",
        choices={"none": "it is BASE_LR whatever IMS_PER_BATCH is", "linear": "BASE_LR is of REFERENCE_BATCH images, "
        "and the rate grows in proportion (arXiv:1706.02677, for SGD)", "sqrt": "as linear, but with the square root "
        "(arXiv:1404.5997, usual with AdamW)"}),
    REFERENCE_BATCH=Key(16, "The IMS_PER_BATCH for which BASE_LR is given, for LR_RULE", like=BATCH),
    BIAS_LR_FACTOR=Key(1.0, "Learning rate of biases over that of weights (maskrcnn-benchmark: 2)", like=WEIGHT),
    BACKBONE_LR_FACTOR=Key(1.0, "Learning rate of the backbone over that of the rest", like=WEIGHT),
    LR_FACTORS=Key((), "Factors of the learning rate by names of parameters: pairs of a shell pattern and a number, as "
        '[["backbone.fpn.*", 2], ["*.bias", 0.5]]; they are multiplied where several match, and with those above. A '
        "pattern that matches nothing is an error", each=Pair(Text(empty=False), WEIGHT, ("a pattern", "a factor"),
        '["backbone.*", 0.1]')),
    LAYER_DECAY=Key(1.0, "Learning rate of each layer of the backbone over that of the layer above it; the last has "
        "the factor once, and pyramid and heads have none. 1 is off; BEiT takes 0.65 to 0.95 (arXiv:2106.08254)",
        above=0, at_most=1),
    MOMENTUM=Key(0.9, "SGD's momentum", at_least=0, below=1, resume=NEXT_STEP),
    NESTEROV=Key(False, "Use Nesterov momentum in SGD", resume=NEXT_STEP),
    BETAS=Key((0.9, 0.999), "AdamW's betas, the decay rates of its two moments", each=Number(at_least=0, below=1),
        sizes=(2,), resume=NEXT_STEP),
    WEIGHT_DECAY=Key(1e-4, "Weight decay of all parameters without one of their own below", like=WEIGHT,
        resume=NEXT_STEP),
    WEIGHT_DECAY_BIAS=Key(-1.0, "Weight decay of biases; -1 takes WEIGHT_DECAY (maskrcnn-benchmark: 0)", like=OR_NONE,
        resume=NEXT_STEP),
    WEIGHT_DECAY_NORM=Key(0.0, "Weight decay of norm layers; -1 takes WEIGHT_DECAY (detectron2: 0)", like=OR_NONE,
        resume=NEXT_STEP),
    LR_SCHEDULE=Key("step", 'Learning rate schedule: "step", "cosine", "polynomial" or "one_cycle" (docs/solver.md)',
        registry="LR_SCHEDULES"),
    STEPS=Key((60000, 80000), '"step": when the learning rate is multiplied by GAMMA', duration=True, place=True),
    GAMMA=Key(0.1, '"step": factor of the learning rate at each of STEPS', at_least=0, ceiling=1000),
    COSINE_END_FACTOR=Key(0.0, '"cosine": the final learning rate, as a fraction of BASE_LR', within=(0, 1)),
    POLYNOMIAL_POWER=Key(0.9, '"polynomial": the power of what is left of the run; 1 falls evenly', above=0,
        ceiling=1000),
    POLYNOMIAL_END_FACTOR=Key(0.0, '"polynomial": the final learning rate, as a fraction of BASE_LR', within=(0, 1)),
    ONE_CYCLE_RISE=Key(0.3, '"one_cycle": the part of the run in which the learning rate rises to BASE_LR, in place of '
        "a warm-up", within=(0, 1)),
    ONE_CYCLE_START_FACTOR=Key(0.04, '"one_cycle": the first learning rate, as a fraction of BASE_LR', within=(0, 1)),
    ONE_CYCLE_END_FACTOR=Key(4e-6, '"one_cycle": the last learning rate, as a fraction of BASE_LR', within=(0, 1)),
    WARMUP_ITERS=Key(1000, "Length of the warm-up", duration=True, place=True),
    WARMUP_FACTOR=Key(0.001, "Learning rate at the start of the warm-up, as a fraction of that after it",
        within=(0, 1)),
    WARMUP_METHOD=Key("linear", "Learning rate during the warm-up", choices={"linear": "rises evenly",
        "constant": "stays at WARMUP_FACTOR times that after it"}),
    CLIP_GRAD_NORM=Key(0.0, "Clip gradients to this norm; 0 is off", at_least=0, resume=NEXT_STEP),
    CLIP_GRAD_NORM_PER=Key("model", "Whose norm that is", choices={"model": "of all gradients together",
        "parameter": "of the gradient of each parameter by itself, as CLIP_TYPE norm of detectron2"}, resume=NEXT_STEP),
    CLIP_GRAD_VALUE=Key(0.0, "Clip every gradient value to this magnitude; 0 is off", at_least=0, resume=NEXT_STEP),
    SKIP_NONFINITE=Key(0, "How many steps of a run may go by without their update where a loss or a gradient is not "
        "finite; the next such step ends the run, as the first one does with 0. The log says which and why; overflows "
        "that the loss scaling of fp16 skips do not count", at_least=0, ceiling=1_000_000, resume=Resume(CONTINUES,
        "those skipped so far count")),
    AMP=Key("auto", "Mixed precision", choices={"auto": "bf16 where the hardware computes in it", "off": "", "bf16": "",
        "fp16": "with loss scaling, CUDA only"}, resume=NEXT_STEP),
    EMA_DECAY=Key(0.0, "Decay per iteration of an exponential moving average of the weights, which is then evaluated "
        "and saved; 0 is off", at_least=0, below=1, resume=Resume(CONTINUES, "switched on, the average starts from the "
        "current weights; switched off, the raw weights are trained on and saved; another decay holds from the next "
        "step on")),
    SWA_START=Key(0, "From here on, the plain mean of the weights is evaluated and saved (stochastic weight averaging, "
        "arXiv:1803.05407; docs/solver.md); 0 is off", duration=True, place=True, resume=AVERAGED),
    SWA_PERIOD=Key(1, "From one of the weights that are averaged to the next; the paper takes 1ep", duration=True,
        resume=AVERAGED),
    SWA_LR_FACTOR=Key(-1.0, "Learning rate from SWA_START on, as a fraction of BASE_LR; -1: the schedule goes on",
        like=OR_NONE),
    CHECKPOINT_PERIOD=Key(5000, "How often a training checkpoint is saved; 0: only at the end", duration=True,
        resume=HOW),
    KEEP_LAST=Key(3, "Training checkpoints kept (the newest); 0 keeps all. model_best.pth and model_final.pth, weights "
        "alone, always stay", at_least=0, ceiling=1_000_000_000, resume=HOW),
    CHECKPOINT_ASYNC=Key(True, "Steps go on while a checkpoint is written: its state is copied into memory of the CPU "
        "(as much as the file is large, once), and a thread writes it; False: a step waits for the file", resume=HOW),
    REQUEUE_EXIT_CODE=Key(0, "Exit code of a run that SIGTERM or SIGUSR1 has stopped, saved, so that a script can "
        "queue it again; 0: 143 and 138", within=(0, 255), resume=HOW),
    LOG_PERIOD=Key(20, "Iterations from one log line to the next, and so between synchronisations with the device",
        above=0, ceiling=1_000_000_000, resume=HOW),
    IMAGE_PERIOD=Key(0, "How often training images with their targets are drawn for TensorBoard; 0: only the first "
        "batch", duration=True, resume=HOW),
    BEST_METRIC=Key("bbox/AP", "The metric that model_best.pth is chosen by", resume=MEASURES),
    EARLY_STOP_PATIENCE=Key(0, "Stop training when BEST_METRIC has not risen by EARLY_STOP_MIN_DELTA in this many "
        "evaluations; 0 is off", at_least=0, ceiling=1_000_000_000, resume=HOW),
    EARLY_STOP_MIN_DELTA=Key(0.0, "Smallest rise of BEST_METRIC that counts", like=STRENGTH, resume=HOW),
)
