"""The keys of what is done with an image before the model sees it. Sizes are in pixels."""

from __future__ import annotations

from detframe.config.bounds import Each, Number
from detframe.config.entries import Entry
from detframe.config.key import CONTINUES, REFUSED, Key, Resume, section
from detframe.config.keys.common import HOW, IMAGES, LATER_IMAGES, LONGER_SIDE, MEASURES, SIDE, STRENGTH, Whole

SHAPES = Resume(CONTINUES, "batches have other shapes from here on, and the images that are left of the window come in "
    "the new order; none comes twice or is left out")
TILE_ORDER = Resume(REFUSED, "other tiles, or another order of them: the place where the run stands would mean another")

LSJ = section(
    ON=Key(False, "Large-scale jitter (arXiv:2012.07177) instead of MIN_SIZE_TRAIN: images are resized to fit a square "
        "of SIZE pixels times a random scale, and cropped to SIZE"),
    SIZE=Key(1024, "Side of that square", above=0, ceiling=2**15),
    MIN_SCALE=Key(0.1, "Lower bound of the random scale", above=0, ceiling=100),
    MAX_SCALE=Key(2.0, "Upper bound of the random scale", above=0, ceiling=100),
)

TILES = section(
    SIZE=Key(0, "Cut images into square tiles with a side of so many pixels of the file, in training, evaluation and "
        "prediction; a tile is then an image like any other, which MIN_SIZE_TRAIN, MIN_SIZE_TEST and the other keys "
        "apply to; 0: images stay whole (docs/small_objects.md)", like=SIDE, resume=TILE_ORDER),
    OVERLAP=Key(0.2, "Overlap of neighbouring tiles: below 1 a part of SIZE, from 1 on in pixels. An object that is "
        "not larger is whole in some tile", at_least=0, ceiling=2**15, resume=TILE_ORDER),
    MIN_VISIBLE=Key(0.3, "An object belongs to a tile that shows at least this part of its area (of its mask, where "
        "it has one), and its box is clipped to the tile; an object of which a tile shows less is ignored there",
        above=0, at_most=1, resume=TILE_ORDER),
    WHOLE_IMAGE_TOO=Key(False, "The whole image is one more tile, for objects that no tile holds", resume=TILE_ORDER),
    MAX_EMPTY=Key(0.25, "Largest part of the tiles of an epoch that show no object; which come is drawn anew in "
        "each epoch. 1: every tile comes", within=(0, 1), resume=TILE_ORDER),
    MERGE=Key("ios", "How the detections of the tiles of an image become one list", choices={
        "ios": "detections of one object by several tiles become one where they cover MERGE_THRESH of the smaller one, "
        "so that the parts of an object that was cut are joined",
        "nms": "NMS over all tiles at an IoU of MERGE_THRESH"}, resume=MEASURES),
    MERGE_THRESH=Key(0.5, "The threshold of MERGE", above=0, at_most=1, resume=MEASURES),
    COMPARE=Key(True, "The evaluation at the end of a run, and `detframe evaluate`, also score whole images, and whole "
        "images at as many pixels as the tiles have together", resume=HOW),
)

INPUT = section(
    resume=LATER_IMAGES,
    CHANNELS=Key(3, "Channels of the images. 3 are RGB, unless DEPTH says otherwise; any other number is read as the "
        "file has it, from TIFF, PNG and NumPy's .npy (docs/channels.md)", at_least=1, at_most=64, resume=IMAGES),
    DEPTH=Key("auto", "What the values of an image are", choices={
        "auto": "8bit where CHANNELS is 3, else file",
        "8bit": "any file becomes RGB with values from 0 to 255; of 16 bits the upper 8 are kept",
        "file": "the values of the file: of 8 or 16 bits, or floating-point"}, resume=IMAGES),
    FORMAT=Key("RGB", "Channel order that the model expects; images are always passed in as RGB. Set together with "
        "WEIGHTS where these are known (docs/weights.md), like PIXEL_MEAN, PIXEL_STD and MODEL.RESNETS.STRIDE_IN_1X1",
        choices=("RGB", "BGR"), resume=IMAGES),
    PIXEL_MEAN=Key((123.675, 116.28, 103.53), "Pixel mean of each channel: of values from 0 to 255, in the channel "
        "order of FORMAT; with the values of the file in its units (`detframe check` measures it)",
        each=Number(any_value=True), sizes=tuple(range(1, 65)), resume=IMAGES),
    PIXEL_STD=Key((58.395, 57.12, 57.375), "Pixel standard deviation, as PIXEL_MEAN", each=Number(above=0),
        sizes=tuple(range(1, 65)), resume=IMAGES),
    MIN_SIZE_TRAIN=Key((800,), "Shorter side of images in training; of several values one is sampled per image; 0 "
        "keeps their size", each=SIDE, filled=True),
    MIN_SIZE_TRAIN_SAMPLING=Key("choice", "How two values in MIN_SIZE_TRAIN are sampled",
        choices={
        "choice": "one of them", "range": "any integer between them",
        "scale": "as range, and MAX_SIZE_TRAIN, the limit at the larger one, shrinks with it: so images that reach "
        "that limit come in as many sizes as the others"}),
    MAX_SIZE_TRAIN=Key(1333, "Upper limit of the longer side in training; 0 is no limit", like=LONGER_SIDE),
    MIN_SIZE_TEST=Key(800, "Shorter side of images in evaluation; 0 keeps their size", like=SIDE, resume=MEASURES),
    MAX_SIZE_TEST=Key(1333, "Upper limit of the longer side in evaluation; 0 is no limit", like=LONGER_SIDE,
        resume=MEASURES),
    DECODE=Key("exact", "How JPEG files are decoded, in training, evaluation and prediction", choices={
        "exact": "every pixel, and then resized",
        "scaled": "at 1/2, 1/4 or 1/8 of the sides where that is still as large as the image is resized to at most: "
        "faster, with pixels that differ a little (docs/benchmarks.md); images cut into tiles or predicted in several "
        "views (TEST.AUG), and other formats, are decoded exactly; but TIFF and .npy of more than 2^27 pixels are made "
        "smaller while they are read"}, resume=MEASURES),
    TRANSFORMS=Key((), "What is done with a training image, in this order: names of detframe's own transforms, of "
        "torchvision.transforms.v2 as v2.Name and of Albumentations as albumentations.Name, each with arguments where "
        "needed (docs/augmentation.md); []: resizing, flips and colours as the other keys say", each=Entry()),
    CLOSE_AT=Key(0, "From here on, the entries of TRANSFORMS with `close: true` are left out, which is the default of "
        "those that mix images; 0: never", duration=True, place=True),
    MIN_VISIBLE=Key(0.0, "An object of whose box a transform leaves less than this part within the image is removed",
        within=(0, 1)),
    FLIP_PROB=Key(0.5, "Probability of a horizontal flip, which also swaps left and right keypoints", within=(0, 1)),
    VERTICAL_FLIP_PROB=Key(0.0, "Probability of a vertical flip", within=(0, 1)),
    BUCKETS=Key((), "Shapes of batches, in training, evaluation and prediction: pairs [height, width], to the smallest "
        "of which that holds its images a batch is padded; or one number, of which its sides become multiples; []: "
        "multiples of what the network needs. Sides grow to those multiples. Few shapes are few compilations "
        "(MODEL.COMPILE); `detframe check` proposes some (docs/batch_shapes.md)",
        each=Each(Whole(above=0, ceiling=2**16), sizes=(1, 2)), bare=True, resume=SHAPES),
    LSJ=LSJ,
    TILES=TILES,
    COPY_PASTE_PROB=Key(0.0, "Probability that some objects of another training image are pasted into an image, cut "
        "out by their masks (arXiv:2012.07177)", within=(0, 1)),
    BRIGHTNESS=Key(0.0, "Strength of brightness jitter, as in torchvision's ColorJitter; 0 is off", like=STRENGTH),
    CONTRAST=Key(0.0, "Strength of contrast jitter; 0 is off", like=STRENGTH),
    SATURATION=Key(0.0, "Strength of saturation jitter; 0 is off", like=STRENGTH),
    HUE=Key(0.0, "Strength of hue jitter, in turns of the colour wheel; 0 is off", within=(0, 0.5)),
)
