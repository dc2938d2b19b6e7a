"""What the tests of assigners count in their matches."""

from torch import Tensor

from detframe.ops.boxes import Matches


def positives_of_objects(matches: Matches, num_objects: int) -> Tensor:
    """How many anchors are to find each object: int64 (N, G), 0 for padding.

    Args:
        num_objects: G.
    """
    positive = (matches.label > 0).long()
    return positive.new_zeros(len(positive), num_objects).scatter_add(1, matches.gt_index, positive)
