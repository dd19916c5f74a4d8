import pytest
import torch

from tests.helpers import unchecked
from touchstone.generative.baselines import variance_preserving_flow
from touchstone.generative.couplings import Streams, independent
from touchstone.generative.fitting import fit
from touchstone.generative.samplers import euler
from touchstone.nn.time_embedding import TimeMLP


class Point(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor([3.0]))


def test_fit_finds_a_minimum_and_leaves_the_start_alone():
    model = Point()
    found = fit(model, lambda m: (m.value - 1).square().sum(), steps=250, learning_rate=0.1)
    assert abs(found.value.item() - 1) < 0.01
    assert model.value.item() == 3.0


def test_first_step_has_the_stated_size():
    """Adam's first step is the learning rate; the average then moves by one minus a tenth."""
    found = fit(Point(), lambda m: (m.value - 1).square().sum(), steps=1, learning_rate=0.1)
    assert found.value.item() == pytest.approx(3 - 0.9 * 0.1, abs=1e-6)


def test_steps_must_be_positive():
    with pytest.raises(ValueError, match="steps"):
        unchecked(fit)(Point(), lambda m: m.value.sum(), steps=0)


def test_diffusion_of_a_gaussian_is_exact_in_the_limit():
    """For data N(0, s^2) the probability-flow ODE is z' = (log sigma_t)' z with sigma_t^2 = s^2 sin^2 + cos^2."""
    seeds, deviation = [0], 0.5
    data = deviation * Streams(seeds, 7).normal(5000, 1)
    streams = Streams(seeds, 1)
    model = variance_preserving_flow(
        TimeMLP(1, seeds, width=64, depth=2), independent(streams, data), streams, steps=500, batch=512
    )
    start = torch.linspace(-2, 2, 41).reshape(1, -1, 1)
    end = euler(model, start, 100).end
    assert (end - deviation * start).abs().max() < 0.12
