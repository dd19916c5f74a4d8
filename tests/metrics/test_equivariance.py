"""The equivariance error: zero for symmetric functions, its closed form for simple ones."""

import math

import numpy as np
import pytest
import torch

from touchstone.data.shapes import random_rotations
from touchstone.metrics.equivariance import equivariance_error


def act(g, x):
    return x @ g


def setting(inputs=128, elements=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(inputs, 4, 3, generator=generator, dtype=torch.float64), random_rotations(elements, generator)


def test_zero_for_equivariant_and_invariant_functions():
    x, g = setting()
    assert equivariance_error(lambda x: x * x.norm(dim=-1, keepdim=True), x, g, act, act) < 1e-12
    assert equivariance_error(lambda x: x.norm(dim=-1), x, g, act) < 1e-12
    assert equivariance_error(lambda x: x, x, g, act) > 0.5, "equivariant is not invariant"


def test_closed_form_for_a_projection():
    # f(x) = first coordinate, invariant action: f(xg) - f(x) has variance 2 - 2 g_11 for isotropic inputs.
    x, g = setting(100_000, 1)
    error = equivariance_error(lambda x: x[:, 0, :1], x, g, act)
    assert abs(error - math.sqrt(2 - 2 * g[0, 0, 0])) < 0.02


def test_unrelated_outputs_give_root_two():
    x, g = setting(4000, 5)
    generator = torch.Generator().manual_seed(1)
    error = equivariance_error(lambda x: torch.randn(len(x), 1, generator=generator), x, g, act)
    assert abs(error - math.sqrt(2)) < 0.05


def test_median_over_elements_and_scale_free():
    x, _ = setting()
    eye = torch.eye(3, dtype=torch.float64)
    wanted = equivariance_error(lambda x: x, x, [2 * eye], act, lambda g, y: y)
    assert equivariance_error(lambda x: x, x, [eye, 2 * eye, 9 * eye], act, lambda g, y: y) == pytest.approx(wanted)
    assert equivariance_error(lambda x: 7 * x + 1, x, [2 * eye], act, lambda g, y: y) == pytest.approx(wanted)


def test_bad_arguments_are_named():
    x, g = setting(4, 1)
    for bad in (x * np.nan, x[:0]):
        with pytest.raises(ValueError, match="inputs"):
            equivariance_error(lambda x: x, bad, g, act)
    with pytest.raises(ValueError, match="elements"):
        equivariance_error(lambda x: x, x, [], act)
