r"""How every recommender of the part is trained and judged: one loop, one loss, one evaluation.

The pairwise loss (Bayesian personalised ranking) wants a met item above an unmet one,

.. math:: L = -\ln \sigma(\hat y_{ui} - \hat y_{uj})
   + \lambda \big(\|e_u^{(0)}\|^2 + \|e_i^{(0)}\|^2 + \|e_j^{(0)}\|^2\big),

averaged over a batch of triples (user, met item, unmet item) with a fresh unmet item at every visit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from touchstone.checks import shaped
from touchstone.data.interactions import Interactions
from touchstone.metrics.ranking import RankingScore, ranking_score

Objective = Callable[[nn.Module, Int[Tensor, "batch 2"], torch.Generator], tuple[Tensor, Tensor]]


class UnmetItems:
    """Draws, for each user, an item that is uniform over those the user has not met in training."""

    def __init__(self, data: Interactions):
        """Remember the training interactions of the data."""
        self.items = data.items
        self.met = (data.train[:, 0] * data.items + data.train[:, 1]).sort().values

    def __call__(self, user: Int[Tensor, " batch"], generator: torch.Generator) -> Int[Tensor, " batch"]:
        """Draw by rejection.

        Args:
            user: user indices.
            generator: draws the items.

        Returns:
            one unmet item for each entry of ``user``.
        """
        item = torch.randint(self.items, user.shape, generator=generator)
        while True:
            code = user * self.items + item
            place = torch.searchsorted(self.met, code).clamp(max=len(self.met) - 1)
            (wrong,) = torch.nonzero(self.met[place] == code, as_tuple=True)
            if len(wrong) == 0:
                return item
            item[wrong] = torch.randint(self.items, wrong.shape, generator=generator)


def bpr_objective(data: Interactions, penalty: float) -> Objective:
    r"""The pairwise loss as an objective for :func:`train`.

    Args:
        data: its training pairs say which items are unmet.
        penalty: :math:`\lambda`, weight of the squared layer-0 embeddings of a triple.

    Returns:
        a function of the model, a batch of pairs and a generator that returns the loss with and without the penalty.

    Raises:
        ValueError: if the penalty is negative.
    """
    if not penalty >= 0:
        raise ValueError(f"penalty must be a number of at least 0, got {penalty}")
    draw = UnmetItems(data)

    def objective(model, pairs, generator):
        user, item = pairs.T
        unmet = draw(user, generator)
        users, items = model()
        chosen = users.index_select(0, user)
        gap = items.index_select(0, unmet) - items.index_select(0, item)
        pairwise = functional.softplus((chosen * gap).sum(1)).mean()
        rows = torch.cat([user, data.users + item, data.users + unmet])
        size = model.embedding.index_select(0, rows).square().sum() / len(user)
        return pairwise + penalty * size, pairwise.detach()

    return objective


@dataclass
class Training:
    """What a training run leaves behind.

    Attributes:
        curve: one entry a validation: ``update``, ``epoch``, ``seconds`` (of training alone), ``loss`` (mean over the
            updates since the last entry, without penalties), ``validation`` and, where asked for, ``test`` NDCG@20.
        users: user embeddings of the best validation.
        items: item embeddings of the best validation.
        best: the best validation NDCG@20.
        updates: number of updates made.
        seconds: wall time of all updates, without evaluation.
    """

    curve: list[dict] = field(default_factory=list)
    users: Float[Tensor, "users dim"] | None = None
    items: Float[Tensor, "items dim"] | None = None
    best: float = -1.0
    updates: int = 0
    seconds: float = 0.0

    def score(self, data: Interactions, k: int = 20) -> RankingScore:
        """Test metrics of the embeddings that were best in validation.

        Args:
            data: the interactions.
            k: length of the recommended list.

        Returns:
            recall, NDCG and the number of users.

        Raises:
            ValueError: if no validation took place, or the first one found numbers that are not finite.
        """
        if self.users is None:
            raise ValueError("the training has no finite validated embeddings: lower learning_rate or validate_every")
        return evaluate(self.users @ self.items.T, data, "test", k)


def train(
    model: nn.Module,
    data: Interactions,
    objective: Objective,
    *,
    learning_rate: float,
    batch: int,
    epochs: int,
    seed: int,
    validate_every: int,
    patience: int | None = None,
    watch_test: bool = False,
) -> Training:
    """Adam over shuffled training pairs, keeping the embeddings that rank the validation items best.

    Args:
        model: called without arguments it gives user and item embeddings; ``model.embedding`` is its layer 0.
        data: pairs to train on and to validate with.
        objective: the loss of a batch, and the part of it that is logged.
        learning_rate: of Adam.
        batch: training pairs an update.
        epochs: passes over the training pairs.
        seed: of shuffling and negative items.
        validate_every: updates between validations.
        patience: stop after this many validations without a new best; ``None`` never stops early.
        watch_test: also note test NDCG@20 in the curve (it decides nothing).

    Returns:
        the curve, the best embeddings and the time taken.

    Raises:
        ValueError: if a count or the learning rate is not positive.
    """
    counts = {"learning_rate": learning_rate, "batch": batch, "epochs": epochs, "validate_every": validate_every}
    for name, value in counts.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    shaped("data.train", data.train, ("pairs", 2))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout draws from the global generator
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    result, losses, waited = Training(), [], 0
    for epoch in range(epochs):
        for chunk in torch.randperm(len(data.train), generator=generator).split(batch):
            start = time.perf_counter()
            loss, logged = objective(model.train(), data.train[chunk], generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            result.seconds += time.perf_counter() - start
            result.updates += 1
            losses.append(logged)
            if result.updates % validate_every:
                continue
            with torch.no_grad():
                users, items = model.eval()()
                scores = users @ items.T
            if not bool(scores.isfinite().all()):
                return result  # diverged: what was best before stands
            entry = {"update": result.updates, "epoch": epoch + 1, "seconds": result.seconds}
            entry |= {
                "loss": torch.stack(losses).mean().item(),
                "validation": evaluate(scores, data, "validation").ndcg,
            }
            if watch_test:
                entry["test"] = evaluate(scores, data, "test").ndcg
            result.curve.append(entry)
            losses, waited = [], waited + 1
            if entry["validation"] > result.best:
                result.users, result.items = users.detach().clone(), items.detach().clone()
                result.best, waited = entry["validation"], 0
            if patience is not None and waited >= patience:
                return result
    return result


def evaluate(
    scores: Float[Tensor, "users items"], data: Interactions, split: str = "test", k: int = 20
) -> RankingScore:
    """Full-list metrics: training items are masked, and for the test split the validation items too.

    Args:
        scores: of every user for every item.
        data: the interactions.
        split: ``validation`` or ``test``.
        k: length of the recommended list.

    Returns:
        recall, NDCG and the number of users.

    Raises:
        ValueError: if the split is another one, or the scores do not fit.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"split must be validation or test, got {split!r}")
    shaped("scores", scores, (data.users, data.items))
    seen = data.mask("train") if split == "validation" else data.mask("train", "validation")
    return ranking_score(scores, data.mask(split), seen, k)
