"""The keys of what is done with an image before the model sees it. Sizes are in pixels."""

from __future__ import annotations

from detframe.config.bounds import Number
from detframe.config.key import Key, section
from detframe.config.keys.common import IMAGES, LATER_IMAGES, LENGTH, LONGER_SIDE, MEASURES, SIDE, STRENGTH

LSJ = section(
    ON=Key(False, "Large-scale jitter (arXiv:2012.07177) instead of MIN_SIZE_TRAIN: images are resized to fit a square "
        "of SIZE pixels times a random scale, and cropped to SIZE"),
    SIZE=Key(1024, "Side of that square", above=0, ceiling=2**15),
    MIN_SCALE=Key(0.1, "Lower bound of the random scale", above=0, ceiling=100),
    MAX_SCALE=Key(2.0, "Upper bound of the random scale", above=0, ceiling=100),
)

INPUT = section(
    resume=LATER_IMAGES,
    FORMAT=Key("RGB", "Channel order that the model expects; images are always passed in as RGB. Set together with "
        "WEIGHTS where these are known (docs/weights.md), like PIXEL_MEAN, PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1",
        choices=("RGB", "BGR"), resume=IMAGES),
    PIXEL_MEAN=Key((123.675, 116.28, 103.53), "Pixel mean, of values from 0 to 255, in the channel order of FORMAT",
        each=Number(any_value=True, ceiling=1e6), sizes=(3,), resume=IMAGES),
    PIXEL_STD=Key((58.395, 57.12, 57.375), "Pixel standard deviation, of values from 0 to 255, in the channel order of "
        "FORMAT", each=LENGTH, sizes=(3,), resume=IMAGES),
    MIN_SIZE_TRAIN=Key((800,), "Shorter side of images in training; of several values one is sampled per image; 0 "
        "keeps their size", each=SIDE, filled=True),
    MIN_SIZE_TRAIN_SAMPLING=Key("choice", "How two values in MIN_SIZE_TRAIN are sampled",
        choices={"choice": "one of them", "range": "any integer between them"}),
    MAX_SIZE_TRAIN=Key(1333, "Upper limit of the longer side in training; 0 is no limit", like=LONGER_SIDE),
    MIN_SIZE_TEST=Key(800, "Shorter side of images in evaluation; 0 keeps their size", like=SIDE, resume=MEASURES),
    MAX_SIZE_TEST=Key(1333, "Upper limit of the longer side in evaluation; 0 is no limit", like=LONGER_SIDE,
        resume=MEASURES),
    FLIP_PROB=Key(0.5, "Probability of a horizontal flip, which also swaps left and right keypoints", within=(0, 1)),
    VERTICAL_FLIP_PROB=Key(0.0, "Probability of a vertical flip", within=(0, 1)),
    LSJ=LSJ,
    COPY_PASTE_PROB=Key(0.0, "Probability that some objects of another training image are pasted into an image, cut "
        "out by their masks (arXiv:2012.07177)", within=(0, 1)),
    BRIGHTNESS=Key(0.0, "Strength of brightness jitter, as in torchvision's ColorJitter; 0 is off", like=STRENGTH),
    CONTRAST=Key(0.0, "Strength of contrast jitter; 0 is off", like=STRENGTH),
    SATURATION=Key(0.0, "Strength of saturation jitter; 0 is off", like=STRENGTH),
    HUE=Key(0.0, "Strength of hue jitter, in turns of the colour wheel; 0 is off", within=(0, 0.5)),
)
