r"""Recall@k and NDCG@k over the full list of items, as recommenders are compared.

Items a user has already met are masked, users without a relevant item are skipped, and nothing is sampled:

.. math:: \mathrm{DCG@}k = \sum_{r=1}^{k} \frac{[\text{item at rank } r \text{ is relevant}]}{\log_2(r+1)},
   \qquad \mathrm{NDCG@}k = \mathrm{DCG@}k / \max \mathrm{DCG@}k.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from touchstone.checks import finite, shaped


class RankingScore(NamedTuple):
    """Means over the users that have at least one relevant item."""

    recall: float
    ndcg: float
    users: int


def ranking_score(
    scores: Float[Tensor, "users items"],
    relevant: Bool[Tensor, "users items"],
    seen: Bool[Tensor, "users items"],
    k: int = 20,
) -> RankingScore:
    """Rank all items a user has not met yet and compare the first k with the relevant ones.

    Args:
        scores: larger means recommended earlier.
        relevant: true for the held-out items a good ranking puts first.
        seen: true for the items that are masked, i.e. training (and validation) items.
        k: length of the list; cut to the number of items.

    Returns:
        recall and NDCG, both between 0 and 1, and the number of users they are means over.

    Raises:
        ValueError: if scores are empty or not finite, shapes differ, k is below 1, a relevant item is masked, or no
            user has a relevant item.
    """
    finite(scores=scores)
    sizes = shaped("scores", scores, ("users", "items"))
    shaped("relevant", relevant, (sizes["users"], sizes["items"]))
    shaped("seen", seen, (sizes["users"], sizes["items"]))
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if bool((relevant & seen).any()):
        raise ValueError("relevant holds items that are also seen: they are masked and could never be recommended")
    wanted = relevant.sum(1)
    kept = wanted > 0
    if not bool(kept.any()):
        raise ValueError("relevant is empty: no user has an item to be found")
    k = min(k, sizes["items"])
    top = scores[kept].masked_fill(seen[kept], -torch.inf).topk(k, dim=1).indices
    hits = relevant[kept].gather(1, top).double()
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    ideal = discount.cumsum(0)[wanted[kept].clamp(max=k) - 1]
    recall = (hits.sum(1) / wanted[kept]).mean()
    return RankingScore(recall.item(), ((hits @ discount) / ideal).mean().item(), int(kept.sum()))
