"""The keys of a run as a whole."""

from __future__ import annotations

from detframe.config.key import REFUSED, Key, Resume, section
from detframe.config.keys.common import HOW, NAMES

RUN = section(
    resume=HOW,
    CUSTOM_IMPORTS=Key((), 'Python modules or files that register classes or add keys of your own (docs/own_keys.md), '
        'e.g. ["my_pkg.my_backbone", "path/to/file.py"]', like=NAMES),
    PLUGINS=Key((), "Installed packages that the config takes modules or keys from, as name or name==1.2; they bring "
        'these by an entry point of the group "detframe.plugins" (docs/adding_a_module.md). A run fills it in; what it '
        "names must be installed", like=NAMES),
    OUTPUT_DIR=Key("output", "Where a run writes its log, metrics, checkpoints and pictures: a folder, or one on an "
        "object store, as s3://bucket/run (docs/storage.md)"),
    LOGGERS=Key(("tensorboard",), "Where the numbers and pictures of a training go beside metrics.jsonl and images/: "
        "some of [tensorboard, wandb, mlflow, csv], or one of your own; [] nowhere. None of them can stop or slow a "
        "run (docs/experiments.md)", registry="LOGGERS", once=True),
    SEED=Key(0, "Seed of initial weights, data order and augmentation; -1 samples one and writes it into config.yaml",
        at_least=0, ceiling=2**53, also=(-1,), resume=Resume(REFUSED, "the order of the images and the augmentation of "
        "each follow from it; -1 keeps that of the run")),
    DETERMINISTIC=Key(False, "Ask PyTorch for deterministic algorithms everywhere (slower on a GPU; the CPU is "
        "deterministic anyway)"),
    PROCESS_GROUP_TIMEOUT=Key(60.0, "Minutes that a process waits for the others, also through an evaluation, before "
        "it takes one for lost and ends (docs/many_machines.md)", at_least=0.05, ceiling=10080),
)
