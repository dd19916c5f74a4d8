r"""UltraGCN: train towards the limit of infinitely many message-passing layers, without passing a message.

Repeating the self-connected propagation :math:`e_u \leftarrow \frac{e_u}{d_u+1} + \sum_{i \in N(u)}
\frac{e_i}{\sqrt{(d_u+1)(d_i+1)}}` ends where :math:`e_u = \sum_{i \in N(u)} \beta_{ui} e_i` with

.. math:: \beta_{ui} = \frac{1}{d_u} \sqrt{\frac{d_u + 1}{d_i + 1}}.

UltraGCN has one free vector per user and item and asks for that limit in its loss: a cross entropy in which a met
item weighs :math:`w_1 + w_2 \beta_{ui}` and a sampled one :math:`w_3 + w_4 \beta_{uj}`. A second term pulls the user
towards the items that most often occur together with the met one.

Source: K. Mao, J. Zhu, X. Xiao, B. Lu, Z. Wang, X. He, UltraGCN: Ultra Simplification of Graph Convolutional Networks
for Recommendation, CIKM 2021, arXiv:2110.15114.
"""

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from touchstone.checks import finite, shaped
from touchstone.data.interactions import Interactions
from touchstone.graphs.training import Objective


class Embeddings(nn.Module):
    """One free vector per user and item; the scores are their products."""

    def __init__(self, users: int, items: int, dim: int = 64, *, scale: float = 1e-4, generator: torch.Generator):
        """Draw normal embeddings.

        Args:
            users: number of users.
            items: number of items.
            dim: length of an embedding.
            scale: standard deviation of the draw.
            generator: draws the embeddings.
        """
        super().__init__()
        self.users, self.items = users, items
        self.embedding = nn.Parameter(scale * torch.randn(users + items, dim, generator=generator))

    def forward(self) -> tuple[Float[Tensor, "users dim"], Float[Tensor, "items dim"]]:
        """The embeddings of all users and all items."""
        users, items = self.embedding.split([self.users, self.items])
        return users, items


def limit_weights(
    user_degree: Float[Tensor, " users"], item_degree: Float[Tensor, " items"]
) -> tuple[Float[Tensor, " users"], Float[Tensor, " items"]]:
    r"""The two factors of :math:`\beta_{ui} = a_u b_i` (equation 5), so that no table of users by items is kept.

    Args:
        user_degree: number of training items of every user.
        item_degree: number of training users of every item.

    Returns:
        :math:`a_u = \sqrt{d_u+1}/d_u` (0 for a user without items) and :math:`b_i = 1/\sqrt{d_i+1}`.

    Raises:
        ValueError: if a vector of degrees is empty, not finite, misshapen or negative.
    """
    finite(user_degree=user_degree, item_degree=item_degree)
    for name, degree in (("user_degree", user_degree), ("item_degree", item_degree)):
        shaped(name, degree, ("nodes",))
        if bool((degree < 0).any()):
            raise ValueError(f"{name} holds negative numbers")
    user = torch.where(user_degree > 0, (user_degree + 1).sqrt() / user_degree.clamp(min=1), 0)
    return user, (item_degree + 1).rsqrt()


def item_neighbours(
    pairs: Int[Tensor, "pairs 2"], users: int, items: int, neighbours: int = 10
) -> tuple[Int[Tensor, "items neighbours"], Float[Tensor, "items neighbours"]]:
    r"""The items that most often meet the same users, and their weights (equations 10 and 11).

    With :math:`G = R^\top R`, its diagonal set to zero, and :math:`g_i = \sum_k G_{ik}`, the weight is
    :math:`\omega_{ij} = \frac{G_{ij}}{g_i} \sqrt{g_i / g_j}`.

    Args:
        pairs: (user, item) training interactions.
        users: number of users.
        items: number of items.
        neighbours: how many items each item keeps, fewer than there are items.

    Returns:
        the kept items, never the item itself, and their weights, largest first; an item that shares users with fewer
        others is filled up with weight zero.

    Raises:
        ValueError: if pairs are empty, misshapen or out of range, or neighbours is not between 1 and items - 1.
    """
    finite(pairs=pairs)
    shaped("pairs", pairs, ("pairs", 2))
    if not 1 <= neighbours < items:
        raise ValueError(f"neighbours must be between 1 and items - 1 = {items - 1}, got {neighbours}")
    user, item = pairs.unique(dim=0).numpy().T
    if min(user.min(), item.min()) < 0 or user.max() >= users or item.max() >= items:
        raise ValueError(f"pairs must hold users below {users} and items below {items}, and nothing negative")
    met = scipy.sparse.csr_matrix((np.ones(len(user)), (user, item)), shape=(users, items))
    together = (met.T @ met).tocsr()
    together.setdiag(0)
    inverse = scipy.sparse.diags(np.maximum(np.asarray(together.sum(1)).ravel(), 1) ** -0.5)
    weight = (inverse @ together @ inverse).tocsr()
    kept, values = [], []
    for start in range(0, items, 1024):  # a block of dense rows at a time
        rows = torch.as_tensor(weight[start : start + 1024].toarray(), dtype=torch.float32)
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = -1  # never its own neighbour
        top = rows.topk(neighbours, dim=1)
        kept.append(top.indices)
        values.append(top.values)
    return torch.cat(kept), torch.cat(values)


def ultragcn_objective(
    data: Interactions,
    *,
    positive: tuple[float, float] = (1e-6, 1.0),
    negative: tuple[float, float] = (1e-6, 1.0),
    negative_weight: float = 50.0,
    negatives: int = 200,
    item_weight: float = 1.0,
    neighbours: int = 10,
    decay: float = 1e-4,
) -> Objective:
    r"""The whole loss (equations 9, 12 and 13) as an objective for the part's training loop, summed over a batch.

    .. math:: L = \sum_{(u,i)} \Big[ (w_1 + w_2 \beta_{ui})\, s(-\hat y_{ui})
       + \frac{w_\mathrm{neg}}{R} \sum_{j} (w_3 + w_4 \beta_{uj})\, s(\hat y_{uj})
       + \lambda \sum_{j \in S(i)} \omega_{ij}\, s(-\hat y_{uj}) \Big] + \frac{\gamma}{2} \|\theta\|^2,

    with :math:`s(x) = \ln(1 + e^x)`. The sampled items j are uniform over all items; met ones are not rejected.

    Args:
        data: its training pairs give the degrees and the item neighbours.
        positive: :math:`w_1, w_2`.
        negative: :math:`w_3, w_4`.
        negative_weight: :math:`w_\mathrm{neg}`.
        negatives: number R of sampled items a pair.
        item_weight: :math:`\lambda`.
        neighbours: length of :math:`S(i)`.
        decay: :math:`\gamma`.

    Returns:
        a function of the model, a batch of pairs and a generator: the loss, and its user-item part a pair.

    Raises:
        ValueError: if a weight is negative or not finite, or negatives is below 1.
    """
    weights = {"positive": positive, "negative": negative, "negative_weight": negative_weight}
    for name, value in (weights | {"item_weight": item_weight, "decay": decay}).items():
        if not bool((torch.as_tensor(value).isfinite() & (torch.as_tensor(value) >= 0)).all()):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    if negatives < 1:
        raise ValueError(f"negatives must be at least 1, got {negatives}")
    degrees = [
        torch.bincount(data.train[:, side], minlength=n).float() for side, n in ((0, data.users), (1, data.items))
    ]
    by_user, by_item = limit_weights(*degrees)
    if item_weight > 0:
        near, near_weight = item_neighbours(data.train, data.users, data.items, neighbours)

    def objective(model, pairs, generator):
        user, item = pairs.T
        users, items = model()
        # One dense product with all items, then a lookup: cheaper than gathering the vectors of R items a pair.
        scores = users.index_select(0, user) @ items.T
        sampled = torch.randint(data.items, (len(user), negatives), generator=generator)
        met_weight = positive[0] + positive[1] * by_user[user] * by_item[item]
        sampled_weight = negative[0] + negative[1] * by_user[user, None] * by_item[sampled]
        met = met_weight * functional.softplus(-scores.gather(1, item[:, None]).squeeze(1))
        unmet = (sampled_weight * functional.softplus(scores.gather(1, sampled))).mean(1)
        main = (met + negative_weight * unmet).sum()
        loss = main + 0.5 * decay * model.embedding.square().sum()
        if item_weight > 0:
            loss = loss + item_weight * (near_weight[item] * functional.softplus(-scores.gather(1, near[item]))).sum()
        return loss, main.detach() / len(user)

    return objective
