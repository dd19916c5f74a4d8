import pytest
import torch

from tests.helpers import unchecked
from touchstone.nn.time_embedding import TimeMLP, sinusoidal_embedding


def test_embedding_frequencies():
    time = torch.tensor([0.0, 0.25], dtype=torch.float64)
    found = sinusoidal_embedding(time, 4)
    expected = torch.stack([(time).sin(), (100 * time).sin(), (time).cos(), (100 * time).cos()], dim=-1)
    torch.testing.assert_close(found, expected)
    for features in (0, 3):
        with pytest.raises(ValueError, match="features"):
            unchecked(sinusoidal_embedding)(time, features)


def test_copies_are_the_same_alone_and_in_company():
    points = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0))
    alone = TimeMLP(2, [7])(points, torch.tensor(0.3))
    company = TimeMLP(2, [1, 7])(points.expand(2, 6, 2), torch.full((2, 6), 0.3))
    torch.testing.assert_close(company[1], alone[0], atol=1e-6, rtol=1e-5)
    assert (company[0] - alone[0]).abs().max() > 1e-3


def test_network_is_the_written_formula():
    model = TimeMLP(2, [0], width=8, depth=2, features=4)
    points, time = torch.ones(1, 1, 2), torch.tensor(0.5)
    hidden = torch.cat([points[0], sinusoidal_embedding(time[None], 4)], dim=-1)
    for index, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        hidden = hidden @ weight[0] + bias[0]
        hidden = hidden * torch.sigmoid(hidden) if index < 2 else hidden
    torch.testing.assert_close(model(points, time)[0], hidden)


def test_time_matters():
    model, points = TimeMLP(2, [0]), torch.zeros(1, 1, 2)
    assert (model(points, torch.tensor(0.0)) - model(points, torch.tensor(1.0))).abs().max() > 1e-3
