"""Losses of the class scores of regions, row by row.

Legend: R regions, K classes, N images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# The least share of the softmax of the right class that others are compared with (the authors' release of Seesaw)
LEAST_SCORE = 1e-2


def softmax_focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log(p) of the right class of each row, float32 (R,); 0 where the label is -1.

    Source: arXiv:1708.02002, equation 4, with the softmax over all classes in place of a sigmoid of each.

    Args:
        logits: float32 (R, C).
        labels: int64 (R,), 0 to C - 1; -1 leaves a row out.
    """
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    missing = -torch.expm1(-cross_entropy)  # 1 - p, exact where p is nearly 1
    # of a power below 1 the slope at 0 has no bound
    return missing.clamp(min=torch.finfo(missing.dtype).eps).pow(gamma) * cross_entropy


def seesaw(logits: Tensor, columns: Tensor, counts: Tensor, p: float, q: float) -> Tensor:
    """The Seesaw loss of each row, float32 (R,) (arXiv:2008.10032).

        -log(exp(z_i) / (sum over j != i of M_ij C_ij exp(z_j) + exp(z_i))),   i the right class,
        M_ij = min(1, N_j / N_i)^p,   C_ij = max(1, s_j / s_i)^q,   s = softmax(z)

    A class that is rarer than the right one is punished less by it (M), unless it is mistaken for it (C).

    Args:
        logits: float32 (R, K), z.
        columns: int64 (R,), i.
        counts: (K,), N: how many samples of each class were seen; none counts as one.
    """
    right = columns[:, None]
    seen = counts.to(logits.dtype).clamp(min=1)
    rarer = (seen / seen[right]).clamp(max=1).pow(p)
    scores = logits.detach().softmax(-1)
    mistaken = (scores / scores.gather(1, right).clamp(min=LEAST_SCORE)).clamp(min=1).pow(q)
    # the right class is compared with itself, which gives 1 for both but for what LEAST_SCORE does
    factor = (rarer * mistaken).scatter(1, right, 1.0)
    return F.cross_entropy(logits + factor.log(), columns, reduction="none")


def draw_classes(present: Tensor, chances: Tensor, uniform: Tensor, number: int) -> Tensor:
    """The classes of each image that are taken part in its loss: those present and, up to `number`, others at random.

    Source: arXiv:2103.07461 (CenterNet2), the federated loss: negatives are drawn without replacement by
    `chances`. Here by the Gumbel-max trick (arXiv:1903.06059), which no value decides the shapes of.

    Args:
        present: bool (N, K), the classes that each image shows.
        chances: float32 (K,), how likely each is drawn relative to the others; 0 is never.
        uniform: float32 (N, K) in [0, 1), what is random about it.

    Returns:
        bool (N, K).
    """
    tiny = torch.finfo(uniform.dtype).tiny
    exponential = (-uniform.clamp(min=tiny).log()).clamp(min=tiny)
    gumbel = -exponential.log()
    keys = (chances.log() + gumbel).masked_fill(present, torch.inf)
    best, drawn = keys.topk(min(number, keys.shape[1]), 1)
    return present.scatter(1, drawn, best > -torch.inf) | present
