"""The keys of evaluation."""

from __future__ import annotations

from detframe.config.key import FREE, Key, Resume, section
from detframe.config.keys.common import BATCH, COUNT, HOW, LONGER_SIDE, MEASURES, SIDE

AUG = section(
    ENABLED=Key(False, "Test-time augmentation: evaluations and predictions look at several views of each image and "
        "merge what is found in them. Takes as many times as long as there are views"),
    PLAIN=Key(True, "The image as INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST have it is a view, the first one (detectron2: "
        "False)"),
    MIN_SIZES=Key((), "Shorter side of each further view; 0 keeps the image's size", each=SIDE),
    MAX_SIZE=Key(4000, "Upper limit of the longer side of these further views; 0 is no limit", like=LONGER_SIDE),
    FLIP=Key(True, "Every view also mirrored left to right; left and right keypoints are swapped back"),
    FLIP_VIEWS=Key("all", "Which views are mirrored as well", choices={"all": "", "plain": "the plain one alone",
        "sizes": "those of MIN_SIZES alone"}),
    VERTICAL_FLIP=Key(False, "Every view also mirrored top to bottom"),
    MERGE=Key("nms", "How the detections of all views become one", choices={
        "nms": "NMS as TEST.NMS says", "soft": "Soft-NMS, as TEST.NMS soft",
        "wbf": "weighted boxes fusion (arXiv:1910.13302): boxes of a class that overlap become their mean, weighted "
        "by their scores, and count less the fewer views saw them"}),
    NMS_PER_VIEW=Key(True, "Each view has hard NMS and its best TEST.DETECTIONS_PER_IMG before merging (detectron2); "
        "False: all its candidates are merged (maskrcnn-benchmark, FCOS)"),
    WBF_IOU=Key(0.55, 'MERGE "wbf": boxes that overlap by more than this IoU become one', within=(0, 1)),
)

PRECISE_BN = section(
    ENABLED=Key(False, "Before an evaluation of a training and at its end, statistics of batch norms that train are "
        "measured over training batches, for the evaluation and for the weights that are saved for use; without it, "
        "they are the moving averages of training (docs/test_time.md)"),
    NUM_ITER=Key(200, "The training batches, of SOLVER.IMS_PER_BATCH images each", like=COUNT),
)

TEST = section(
    resume=MEASURES,
    EVALUATOR=Key("coco", 'The evaluator: "coco"; "voc", which adds Pascal VOC\'s AP at IoU 0.5; "lvis", by the '
        'rules of LVIS, for data of which not every image was searched for every class; "tt100k", which adds recall '
        'and accuracy by object size; or "proposals", the class-agnostic average recall', registry="EVALUATORS"),
    VOC_RULE=Key("10", '"voc": the rule of AP', choices={"07": "the mean of precision at 11 recalls, as in VOC 2007",
        "10": "the area below the curve, as from VOC 2010 on"}),
    TT100K_SCORE_THRESH=Key(0.5, '"tt100k": recall and accuracy are those of the detections from this score on',
        within=(0, 1)),
    EVAL_PERIOD=Key(0, "How often to evaluate during training; 0: only at the end", duration=True, resume=HOW),
    ASYNC=Key(False, "Evaluations during training are made by a process with a model of its own, on the same device, "
        "while the steps go on (docs/evaluation.md); the last one is not", resume=Resume(FREE, "an evaluation "
        "that is under way is made again, and left out where it is switched off")),
    IMS_PER_BATCH=Key(8, "Images per forward pass over all ranks", like=BATCH, resume=HOW),
    LOSS=Key(False, "Also compute the losses of training on the evaluated images, as val/loss and val/loss_*: with the "
        "targets of training, running statistics as they stand, no augmentation, no dropout; costs a second forward "
        "pass", resume=HOW),
    DETECTIONS_PER_IMG=Key(100, "Detections kept per image, in the model and in the evaluator; proposals have limits "
        "of their own (MODEL.RPN)", like=COUNT),
    NMS=Key("class", "NMS of the detections; proposals of an RPN have hard NMS per level, always", choices={
        "class": "among the detections of a class", "agnostic": "among those of all classes",
        "soft": "Soft-NMS among those of a class (arXiv:1704.04503): instead of going, what overlaps a better box has "
        "its score lowered by exp(-IoU² / SOFT_NMS_SIGMA), whatever the IoU threshold, and goes below 0.001",
        "soft_linear": "the same, lowered by 1 - IoU above the IoU threshold of the head"}),
    NMS_METRIC=Key("iou", "The measure of the head's NMS threshold, with NMS `class` and `agnostic`", choices={
        "iou": "IoU", "nwd": "the normalised Wasserstein distance, with MODEL.NWD_CONSTANT (arXiv:2110.13389); cannot "
        "be exported"}),
    SOFT_NMS_SIGMA=Key(0.5, 'With NMS "soft": the smaller, the more overlapping boxes lose', above=0, ceiling=100),
    AUG=AUG,
    PRECISE_BN=PRECISE_BN,
    VISUALIZE=Key(8, "Number of images of predictions beside ground truth that an evaluation draws", at_least=0,
        ceiling=1_000_000, resume=HOW),
    REPORT=Key(True, "Write report.html, report.json and predictions_NAME.json of each data set into OUTPUT_DIR at the "
        "end of a training and of an evaluation (docs/report.md)", resume=HOW),
)
