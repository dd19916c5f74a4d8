import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.training.von_mises_fisher import sample_von_mises_fisher


def test_unit_vectors_repeat_for_a_seed():
    mean = torch.tensor([0.6, 0.0, -0.8])
    a, b = (sample_von_mises_fisher(mean, 5.0, 50, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (50, 3)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(50, dtype=a.dtype))


@pytest.mark.parametrize("kappa", [0.3, 2.0, 20.0])
def test_cosines_on_the_ordinary_sphere(kappa):
    # in three dimensions the cosine w has density proportional to e^{kappa w}: mean coth(kappa) - 1 / kappa
    mean = torch.tensor([0.0, 0.6, 0.8])
    count = 20000
    samples = sample_von_mises_fisher(mean, kappa, count, np.random.default_rng(0))
    cosine = samples @ mean.double()
    wanted = 1 / math.tanh(kappa) - 1 / kappa
    variance = 1 - wanted**2 - 2 * wanted / kappa
    assert abs(cosine.mean() - wanted) < 4 * math.sqrt(variance / count)
    assert abs(cosine.var() / variance - 1) < 0.1
    across = samples[:, 0]  # orthogonal to the mean: no preferred side
    assert abs(across.mean()) < 4 * across.std() / count**0.5


@pytest.mark.parametrize(
    ("name", "mean", "kappa", "count"),
    [
        ("mean", torch.tensor([math.nan, 1.0]), 1.0, 5),
        ("mean", torch.tensor([1.0, 1.0]), 1.0, 5),
        ("mean", torch.ones(1), 1.0, 5),
        ("mean", torch.ones(0), 1.0, 5),
        ("mean", torch.eye(2), 1.0, 5),
        ("kappa", torch.tensor([1.0, 0.0]), 0.0, 5),
        ("kappa", torch.tensor([1.0, 0.0]), math.nan, 5),
        ("kappa and count", torch.tensor([1.0, 0.0]), 1.0, 0),
    ],
)
def test_bad_input_is_named(name, mean, kappa, count):
    with pytest.raises(ValueError, match=f"^{name}"):
        unchecked(sample_von_mises_fisher)(mean, kappa, count, np.random.default_rng(0))
