r"""Implicit feedback: a generator with planted communities and a known best score, and the usual text files.

The generator draws user mixtures :math:`p_u` and item mixtures :math:`q_i` over communities and an item popularity
:math:`\pi_i`; a user then meets item :math:`i` with probability

.. math:: P(i \mid u) = (1 - \varepsilon) \frac{(p_u^\top q_i)^2 \pi_i}{Z_u} + \varepsilon \frac{\pi_i}{Z},

so that the matrix :math:`P` itself is the best score a recommender can have (the oracle).
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Interactions:
    """Who met what, split in three.

    Attributes:
        users: number of users.
        items: number of items.
        train: pairs (user, item) to learn from.
        validation: pairs for choosing settings and stopping.
        test: pairs for the reported numbers.
        oracle: the probabilities the data were drawn from, if they are known.
    """

    users: int
    items: int
    train: Int[Tensor, "pairs 2"]
    validation: Int[Tensor, "held 2"]
    test: Int[Tensor, "tested 2"]
    oracle: Float[Tensor, "users items"] | None = None

    def mask(self, *splits: str) -> Bool[Tensor, "users items"]:
        """A dense table that is true where a user met an item in one of the named splits.

        Args:
            *splits: any of ``train``, ``validation`` and ``test``.

        Returns:
            boolean table of users by items.

        Raises:
            ValueError: if a split has another name.
        """
        table = torch.zeros(self.users, self.items, dtype=torch.bool)
        for split in splits:
            if split not in ("train", "validation", "test"):
                raise ValueError(f"splits holds {split!r}: choose from train, validation and test")
            pairs = getattr(self, split)
            table[pairs[:, 0], pairs[:, 1]] = True
        return table


def planted_interactions(
    seed: int,
    users: int = 300,
    items: int = 400,
    *,
    mean: float = 20.0,
    minimum: int = 6,
    noise: float = 0.15,
    communities: int = 8,
    concentration: float = 0.3,
) -> Interactions:
    r"""Draw implicit feedback with planted communities, split 70/10/20 user by user.

    Args:
        seed: of the numpy generator; equal seeds give equal data.
        users: number of users.
        items: number of items.
        mean: mean number of distinct items a user meets (Poisson).
        minimum: the least number of items a user meets, at least 3 (one for each split).
        noise: share :math:`\varepsilon` of the choices that follow popularity alone.
        communities: number of planted communities.
        concentration: of the Dirichlet mixtures; small values give clear-cut communities.

    Returns:
        the split pairs, with the drawn probabilities as oracle.

    Raises:
        ValueError: if a size is too small, or noise is not a share.
    """
    if users < 1 or communities < 1:
        raise ValueError(f"users and communities must be at least 1, got users={users} and communities={communities}")
    if minimum < 3:
        raise ValueError(f"minimum must be at least 3, one item for each split, got {minimum}")
    if not (np.isfinite(mean) and 0 < mean and items >= 2 * max(mean, minimum)):
        raise ValueError(f"items must be at least twice mean and minimum, got {items} with {mean} and {minimum}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must be a share between 0 and 1, got {noise}")
    random = np.random.default_rng(seed)
    user_mixture = random.dirichlet(np.full(communities, concentration), size=users)
    item_mixture = random.dirichlet(np.full(communities, concentration), size=items)
    popularity = random.permutation(np.arange(1, items + 1) ** -0.5)
    taste = (user_mixture @ item_mixture.T) ** 2 * popularity
    probability = (1 - noise) * taste / taste.sum(1, keepdims=True) + noise * popularity / popularity.sum()
    counts = np.clip(random.poisson(mean, users), minimum, items // 2)
    # The largest perturbed log-probabilities are a draw without replacement (Gumbel top-k), in random order of drawing.
    order = np.argsort(-(np.log(probability + 1e-300) + random.gumbel(size=probability.shape)), axis=1)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for user, count in enumerate(counts):
        chosen = random.permutation(order[user, :count])
        held, tested = max(1, round(0.1 * count)), max(1, round(0.2 * count))
        cuts = {"validation": chosen[:held], "test": chosen[held : held + tested], "train": chosen[held + tested :]}
        for split, part in cuts.items():
            parts[split] += [(user, int(item)) for item in np.sort(part)]
    return Interactions(
        users, items, *(_pairs(parts[split]) for split in parts), torch.as_tensor(probability, dtype=torch.float32)
    )


def read_interactions(folder: str | Path, *, validation_share: float = 0.1, seed: int = 0) -> Interactions:
    """Read ``train.txt`` and ``test.txt``, one line ``uid iid iid ...`` per user, as published for Gowalla or Amazon-Book.

    A ``validation.txt`` of the same form is used when it is there; otherwise a share of each user's training items is
    held back. Test items that the same user also has in training are dropped with a warning.

    Args:
        folder: where the files lie.
        validation_share: share of a user's training items to hold back, rounded down; users keep at least one item.
        seed: of the generator that chooses the held-back items.

    Returns:
        the split pairs; the numbers of users and items are one more than the largest identifiers.

    Raises:
        ValueError: naming the folder, or the file, the line and what is wrong with it.
    """
    folder = Path(folder)
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share must be at least 0 and below 1, got {validation_share}")
    for name in ("train.txt", "test.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"folder {folder} has no {name}: give the folder that holds train.txt and test.txt")
    train, test = _read_lists(folder / "train.txt"), _read_lists(folder / "test.txt")
    if not any(train.values()):
        raise ValueError(f"{folder / 'train.txt'} holds no interaction")
    if (folder / "validation.txt").is_file():
        validation = _read_lists(folder / "validation.txt")
    else:
        random, validation = np.random.default_rng(seed), {}
        for user, chosen in train.items():
            held = random.permutation(chosen)[: int(validation_share * len(chosen))]
            validation[user] = sorted(int(item) for item in held)
            train[user] = sorted(set(chosen) - set(validation[user]))
    repeated = 0
    for user, chosen in test.items():
        known = set(train.get(user, [])) | set(validation.get(user, []))
        repeated += len(known & set(chosen))
        test[user] = [item for item in chosen if item not in known]
    if repeated:
        warnings.warn(f"dropped {repeated} test interactions of {folder} that are also training ones", stacklevel=2)
    splits = [[(user, item) for user in sorted(part) for item in part[user]] for part in (train, validation, test)]
    users = 1 + max(user for part in (train, validation, test) for user in part)
    items = 1 + max(item for part in splits for _, item in part)
    return Interactions(users, items, *(_pairs(part) for part in splits))


def write_interactions(folder: str | Path, data: Interactions) -> None:
    """Write the three splits as ``train.txt``, ``validation.txt`` and ``test.txt``, one line ``uid iid iid ...`` per user.

    Args:
        folder: made if it does not exist.
        data: the interactions; the oracle is not written.

    Raises:
        ValueError: if the training split is empty.
    """
    if len(data.train) == 0:
        raise ValueError("data has an empty training split: nothing to write")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        lists: dict[int, list[int]] = {user: [] for user in range(data.users)}
        for user, item in getattr(data, split).tolist():
            lists[user].append(item)
        lines = (" ".join(map(str, [user, *chosen])) + "\n" for user, chosen in lists.items())
        (folder / f"{split}.txt").write_text("".join(lines))


def _read_lists(path: Path) -> dict[int, list[int]]:
    """One file as a dictionary from user to sorted distinct items."""
    lists: dict[int, list[int]] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            user, *chosen = (int(word) for word in line.split())
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected whole numbers 'uid iid iid ...', got {line!r}") from None
        if user < 0 or any(item < 0 for item in chosen):
            raise ValueError(f"{path}, line {number}: identifiers must not be negative")
        if user in lists:
            raise ValueError(f"{path}, line {number}: user {user} already has a line")
        lists[user] = sorted(set(chosen))
    return lists


def _pairs(pairs: list[tuple[int, int]]) -> Int[Tensor, "pairs 2"]:
    """A list of pairs as a tensor that has two columns even when it is empty."""
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
