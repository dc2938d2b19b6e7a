"""The keys of what is done with an image before the model sees it. Sizes are in pixels."""

from __future__ import annotations

from detframe.config.bounds import Number
from detframe.config.key import Key, section
from detframe.config.keys.common import DRAWN, IMAGES, LENGTH, LONGER_SIDE, MEASURES, SIDE, STRENGTH

LSJ = section(
    ON=Key(False, "Large-scale jitter (arXiv:2012.07177) instead of MIN_SIZE_TRAIN: images are resized to fit a square "
        "of SIZE pixels times a random scale, and cut to SIZE"),
    SIZE=Key(1024, "Side of that square", above=0, ceiling=2**15),
    MIN_SCALE=Key(0.1, "The smallest of its random scales", above=0, ceiling=100),
    MAX_SCALE=Key(2.0, "The largest of its random scales", above=0, ceiling=100),
)

INPUT = section(
    resume=DRAWN,
    FORMAT=Key("RGB", "Channel order that the model was trained with; images are always handed in as RGB. Set with "
        "WEIGHTS where these are known (docs/weights.md), as are PIXEL_MEAN, PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1",
        choices=("RGB", "BGR"), resume=IMAGES),
    PIXEL_MEAN=Key((123.675, 116.28, 103.53), "Mean of the pixels from 0 to 255, in the order of FORMAT",
        each=Number(any_value=True, ceiling=1e6), sizes=(3,), resume=IMAGES),
    PIXEL_STD=Key((58.395, 57.12, 57.375), "Deviation of the pixels from 0 to 255, in the order of FORMAT", each=LENGTH,
        sizes=(3,), resume=IMAGES),
    MIN_SIZE_TRAIN=Key((800,), "Length of the shorter side in training; of several one is drawn per image; 0 leaves "
        "images as they are", each=SIDE, filled=True),
    MIN_SIZE_TRAIN_SAMPLING=Key("choice", "What is drawn with two values in MIN_SIZE_TRAIN",
        choices={"choice": "one of them", "range": "any whole number between them"}),
    MAX_SIZE_TRAIN=Key(1333, "Largest length of the longer side in training; 0 is no limit", like=LONGER_SIDE),
    MIN_SIZE_TEST=Key(800, "Length of the shorter side in evaluation; 0 leaves images as they are", like=SIDE,
        resume=MEASURES),
    MAX_SIZE_TEST=Key(1333, "Largest length of the longer side in evaluation; 0 is no limit", like=LONGER_SIDE,
        resume=MEASURES),
    FLIP_PROB=Key(0.5, "Probability of a horizontal flip; keypoints exchange left and right", within=(0, 1)),
    VERTICAL_FLIP_PROB=Key(0.0, "Probability of a vertical flip", within=(0, 1)),
    LSJ=LSJ,
    COPY_PASTE_PROB=Key(0.0, "Probability that an image gets some of another training image's objects, cut out along "
        "their masks (arXiv:2012.07177)", within=(0, 1)),
    BRIGHTNESS=Key(0.0, "Strength of the jitter of brightness, as in torchvision's ColorJitter; 0 is off",
        like=STRENGTH),
    CONTRAST=Key(0.0, "Strength of the jitter of contrast; 0 is off", like=STRENGTH),
    SATURATION=Key(0.0, "Strength of the jitter of saturation; 0 is off", like=STRENGTH),
    HUE=Key(0.0, "Strength of the jitter of hue, in turns of the colour wheel; 0 is off", within=(0, 0.5)),
)
