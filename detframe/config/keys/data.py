"""The keys of the data sets and of how they are loaded."""

from __future__ import annotations

from detframe.config.key import CONTINUES, REFUSED, Key, Resume, section
from detframe.config.keys.common import DIFFERENT_NAMES, HOW, MEASURES, NAMES, SAME_IMAGES, WEIGHT

ORDER = Resume(REFUSED, "the order of the images follows from it, and so what the place where the run stands means")

DATASETS = section(
    resume=SAME_IMAGES,
    TRAIN=Key((), "Data sets to train on, by their names in the catalog; several are joined", like=NAMES),
    TEST=Key((), "Data sets to evaluate on, by their names in the catalog, each by itself", like=DIFFERENT_NAMES,
        resume=MEASURES),
    TRAIN_WEIGHTS=Key((), "The share of each data set of TRAIN in an epoch, over the sum of these numbers; empty: each "
        "image comes as often as DATALOADER.SAMPLER says, wherever it is from. An epoch keeps its length, so images of "
        "a small share do not come in every one", each=WEIGHT, resume=ORDER),
    CATALOG=Key("", "A catalog file of your own, whose entries come before those of datasets/catalog.yaml"),
    LIMIT=Key(0, "Use only the first so many images of each data set, for a trial or to overfit on purpose; 0 uses all",
        at_least=0, ceiling=2**31),
)

DATALOADER = section(
    resume=HOW,
    NUM_WORKERS=Key(-1, "Data loading workers per rank; -1 takes the CPU cores divided by the ranks, at most 8 (with "
        "two cores or fewer: 1)", at_least=0, ceiling=1000, also=(-1,)),
    CACHE_RAM=Key(0.0, "Keep decoded training images in memory, up to so many GB on a machine, for all workers: "
        "an image takes 3 bytes a pixel of the file, less with INPUT.DECODE scaled. 0: each is read and decoded anew",
        at_least=0, ceiling=1e5),
    CACHE_DIR=Key("", "The folder for copies of images and annotations from other machines (s3://, gs://, hf://, "
        "https://); processes share it. Empty: `remote` in DETFRAME_CACHE, or in ~/.cache/detframe"),
    CACHE_GB=Key(50.0, "How many GB copies of images from other machines take at most, those used longest ago going "
        "first; an image larger than that, or any with 0, is fetched anew each time", at_least=0, ceiling=1e7),
    RETRY_SECONDS=Key(300.0, "For how long a store or server that has answered before is asked again after a lost "
        "connection, with pauses of up to 20 s, before the run ends; the step waits, and none is lost", at_least=0,
        ceiling=1e6),
    ASPECT_RATIO_GROUPING=Key(True, "Batch images of similar aspect ratio (wide or tall) together, which saves "
        "padding; with INPUT.BUCKETS, images of one bucket",
        resume=Resume(CONTINUES, "the images that are left of the window come in the new order; none comes twice or is "
        "left out")),
    EMPTY=Key("keep", "Training images without objects", choices={"keep": "as background", "drop": ""},
        resume=SAME_IMAGES),
    EMPTY_SHARE=Key(-1.0, "The share of images without objects in an epoch, above or below what it is in the data; "
        "-1: each comes once", at_least=0, below=1, also=(-1,), resume=ORDER),
    SAMPLER=Key("auto", "How often an image comes in an epoch", choices={
        "auto": "repeat_factor where REPEAT_THRESHOLD is above 0, else uniform",
        "uniform": "once", "repeat_factor": "by its rarest class, once at least, see REPEAT_THRESHOLD",
        "class_balanced": "so often that every class is drawn equally often, as an image of a class that is drawn first"
        "; arXiv:1512.05830"}, resume=ORDER),
    REPEAT_THRESHOLD=Key(0.0, "Repeat-factor sampling: an image with a class that less than this fraction of the "
        "images have comes sqrt(threshold / fraction) times an epoch, by its rarest class; 0: each comes once",
        within=(0, 1), resume=ORDER),
    REPEAT_SQRT=Key(True, "REPEAT_THRESHOLD takes the square root; False: threshold / fraction times", resume=ORDER),
    ON_ERROR=Key("raise", "An image that cannot be read", choices={"raise": "stops and names it",
        "skip": "leaves it out and counts it"}),
)
