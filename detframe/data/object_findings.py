"""What may be wrong with the images and objects of a data set of any format."""

from __future__ import annotations

from detframe.data.findings import ERROR, Kind

OVERHANG = 2.0  # pixels by which a box may reach beyond its image without a word

NO_AREA = Kind(
    "box has no area inside the image and was left out",
    "boxes have no area inside the image and were left out",
    examples=1,
    code="box-without-area",
)
INFINITE = Kind(
    "box has an infinite number and was left out", "boxes have infinite numbers and were left out", code="infinite-box"
)
CLIPPED = Kind(
    f"box reaches more than {OVERHANG:.0f} pixels beyond its image and was clipped to it",
    f"boxes reach more than {OVERHANG:.0f} pixels beyond their images and were clipped to them",
    code="clipped-box",
)
NO_POSITION = Kind(
    "keypoint has no finite position, and counts as not annotated",
    "keypoints have no finite position, and count as not annotated",
    code="infinite-keypoint",
)
SAME_ID = Kind(
    "annotation has an id that another one has; all were numbered anew",
    "annotations have an id that another one has; all were numbered anew",
    code="annotation-id-twice",
)
SAME_OBJECT = Kind(
    "object has the box and the class of another one of its image, and both are kept",
    "objects have the box and the class of others of their images, and all are kept",
    code="object-twice",
    remedy="each counts in training and evaluation: delete what was annotated twice",
)
SAME_FILE = Kind(
    "image file is listed under several ids, and counts as several images",
    "image files are listed under several ids, and count as several images each",
    code="image-listed-twice",
    remedy="list each image once, with all its objects",
)
MISSING_IMAGE = Kind(
    "annotated image does not exist and was left out",
    "annotated images do not exist and were left out",
    examples=5,
    code="missing-image",
    severity=ERROR,
    remedy="copy the images to where the annotations name them, or delete their annotations",
)
