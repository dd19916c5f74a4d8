"""Particle systems: conservation laws, reversibility, symmetry, and one closed form."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data import nbody
from touchstone.data.shapes import random_rotations


@pytest.mark.parametrize("springs", [False, True])
def test_energy_and_momentum_are_conserved(springs):
    s = nbody.systems(20, (0, 300), springs=springs)
    energies = [nbody.energy(s.positions[:, k], s.velocities[:, k], s.couplings, springs) for k in (0, 1)]
    assert (energies[1] - energies[0]).abs().max() < 1e-3
    assert (s.velocities[:, 1] - s.velocities[:, 0]).sum(1).abs().max() < 1e-5
    assert (s.positions[:, 1] - s.positions[:, 0]).norm(dim=2).max() > 0.1


def test_force_is_minus_the_gradient_of_the_energy():
    for springs in (False, True):
        s = nbody.systems(3, (0, 1), springs=springs)
        x = s.positions[:, 0].double().requires_grad_()
        nbody.energy(x, torch.zeros_like(x), s.couplings.double(), springs).sum().backward()
        assert torch.allclose(-x.grad, nbody.accelerations(x.detach(), s.couplings.double(), springs), atol=1e-10)


def test_like_charges_repel():
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    coupling = torch.tensor([[[0.0, 1], [1, 0]]])
    assert nbody.accelerations(x, coupling)[0, 0, 0] < 0 < nbody.accelerations(x, -coupling)[0, 0, 0]


def test_two_springs_swing_as_a_cosine():
    x = torch.tensor([[[0.5, 0, 0], [-0.5, 0, 0]]], dtype=torch.float64)
    coupling = torch.tensor([[[0.0, 1], [1, 0]]], dtype=torch.float64)
    later, _ = nbody.leapfrog(x, torch.zeros_like(x), coupling, (0, 1000), springs=True)
    assert abs(later[0, 1, 0, 0].item() - 0.5 * math.cos(math.sqrt(2 * nbody.STIFFNESS))) < 1e-6


def test_leapfrog_runs_backwards():
    s = nbody.systems(5, (0, 1))
    x, v, c = s.positions[:, 0].double(), s.velocities[:, 0].double(), s.couplings.double()
    there = nbody.leapfrog(x, v, c, (200,))
    back, _ = nbody.leapfrog(there[0][:, 0], there[1][:, 0], c, (200,), step=-nbody.STEP)
    assert torch.allclose(back[:, 0], x, atol=1e-9) and not torch.allclose(there[0][:, 0], x, atol=1e-2)


def test_dynamics_turn_with_the_system():
    s = nbody.systems(5, (0, 1))
    x, v, c = s.positions[:, 0].double(), s.velocities[:, 0].double(), s.couplings.double()
    g = random_rotations(1, torch.Generator().manual_seed(0))
    assert torch.allclose(
        nbody.leapfrog(x @ g, v @ g, c, (100,))[0], nbody.leapfrog(x, v, c, (100,))[0] @ g, atol=1e-10
    )


def test_draws_follow_their_law_and_their_seed():
    s, again = nbody.systems(400, (0, 2)), nbody.systems(400, (0, 2))
    assert torch.equal(s.positions, again.positions)
    assert abs(s.positions[:, 0].std() - nbody.SPREAD) < 0.02 and abs(s.velocities[:, 0].std() - nbody.SPREAD) < 0.02
    assert set(s.charges.unique().tolist()) == {-1.0, 1.0}
    assert (
        torch.equal(s.couplings, s.couplings.transpose(1, 2)) and s.couplings.diagonal(dim1=1, dim2=2).abs().max() == 0
    )
    springs = nbody.systems(50, (0, 1), springs=True).couplings
    assert set(springs.unique().tolist()) == {0.0, 1.0} and torch.equal(springs, springs.transpose(1, 2))


def test_bad_arguments_are_named():
    x, c = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)
    run = unchecked(nbody.leapfrog)
    for arguments, name in (
        ((x * np.nan, x, c, (1,)), "positions"), ((x, x[:1], c, (1,)), "velocities"), ((x, x, c[:, :2], (1,)), "couplings"),
        ((x[:0], x[:0], c[:0], (1,)), "positions"), ((x[0], x, c, (1,)), "positions"), ((x, x, c, (2, 1)), "record"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            run(*arguments)
    with pytest.raises(ValueError, match="count"):
        nbody.systems(0)
    with pytest.raises(ValueError, match="particles"):
        nbody.systems(1, particles=1)
