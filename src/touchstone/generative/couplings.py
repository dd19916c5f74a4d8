"""Ways to pair start points with end points, and the random streams, one a seed, from which batches are drawn."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from touchstone.checks import finite, shaped

Couple = Callable[[int], tuple[Tensor, Tensor]]


class Streams:
    """One random generator a seed; every draw has a leading ``seeds`` axis, and no seed sees another's numbers.

    Args:
        seeds: of the generators.
        purpose: a number that sets apart streams of the same seeds (training, evaluation, ...).
    """

    def __init__(self, seeds: Sequence[int], purpose: int = 0):
        self.generators = [torch.Generator().manual_seed(1000 * purpose + seed) for seed in seeds]

    def normal(self, *shape: int) -> Float[Tensor, "seeds ..."]:
        """Standard normal numbers."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self.generators])

    def uniform(self, *shape: int) -> Float[Tensor, "seeds ..."]:
        """Uniform numbers in [0, 1)."""
        return torch.stack([torch.rand(*shape, generator=generator) for generator in self.generators])

    def rows(self, table: Float[Tensor, "seeds n dim"], batch: int) -> list[Tensor]:
        """Row numbers of a table, with replacement, one tensor a seed."""
        return [torch.randint(table.shape[1], (batch,), generator=generator) for generator in self.generators]


def independent(streams: Streams, data: Float[Tensor, "seeds n dim"]) -> Couple:
    """Normal noise and data that know nothing of each other: the coupling of the first flow.

    Args:
        streams: to draw from.
        data: one training set a seed.

    Returns:
        a function from a batch size to start and end points, each of shape (seeds, batch, dim).

    Raises:
        ValueError: if ``data`` is empty, holds NaN or does not have three axes.
    """
    finite(data=data)
    shaped("data", data, ("seeds", "n", "dim"))

    def couple(batch: int) -> tuple[Tensor, Tensor]:
        chosen = torch.stack([table[rows] for table, rows in zip(data, streams.rows(data, batch), strict=True)])
        return streams.normal(batch, data.shape[-1]), chosen

    return couple


def paired(streams: Streams, start: Float[Tensor, "seeds n dim"], end: Float[Tensor, "seeds n dim"]) -> Couple:
    """Batches of fixed pairs, drawn with replacement.

    Args:
        streams: to draw from.
        start: start points.
        end: their partners, row by row.

    Returns:
        a function from a batch size to start and end points, each of shape (seeds, batch, dim).

    Raises:
        ValueError: if an argument is empty or holds NaN, or the shapes differ.
    """
    finite(start=start, end=end)
    shaped("start", start, ("seeds", "n", "dim"))
    shaped("end", end, tuple(start.shape))

    def couple(batch: int) -> tuple[Tensor, Tensor]:
        rows = streams.rows(start, batch)
        return tuple(torch.stack([t[r] for t, r in zip(table, rows, strict=True)]) for table in (start, end))

    return couple


def transport_pairs(
    start: Float[Tensor, "seeds n dim"], end: Float[Tensor, "seeds n dim"], block: int = 256
) -> Float[Tensor, "seeds n dim"]:
    """Pair start and end points by optimal transport inside mini-batches (Tong et al. 2023, arXiv:2302.00482).

    Args:
        start: start points.
        end: end points, independent of them.
        block: size of a mini-batch; inside each the sum of squared distances is smallest.

    Returns:
        the end points, reordered so that each row is the partner of the same row of ``start``.

    Raises:
        ValueError: if an argument is empty or holds NaN, or the shapes differ.
    """
    finite(start=start, end=end)
    shaped("start", start, ("seeds", "n", "dim"))
    shaped("end", end, tuple(start.shape))
    partners = torch.empty_like(end)
    for seed in range(start.shape[0]):
        for first in range(0, start.shape[1], block):
            rows = slice(first, first + block)
            cost = torch.cdist(start[seed, rows], end[seed, rows]).square().numpy()
            partners[seed, rows] = end[seed, rows][linear_sum_assignment(cost)[1]]
    return partners
