"""Films of a pendulum and of a cart with a pole for :mod:`~touchstone.dynamics.interpretable_world_model`.

Each comes with its equations in PyTorch, whose constants are open.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.data import mechanics, pixels
from touchstone.dynamics.interpretable_world_model import Field, Physics
from touchstone.dynamics.odeint import rk4_step


def pendulum(constants: Sequence[Tensor], state: Float[Tensor, "*batch 2"], push: Tensor) -> Float[Tensor, "*batch 2"]:
    r"""Rate of :math:`\dot\theta=\omega,\ \dot\omega=-\psi_1\sin\theta-\psi_2\omega`; nothing pushes.

    Args:
        constants: gravity over length (1/s²) and damping (1/s).
        state: angle from the lower rest (rad) and its rate.
        push: not used.
    """
    angle, rate = state.unbind(-1)
    return torch.stack([rate, -constants[0] * angle.sin() - constants[1] * rate], -1)


def cart_pole(
    constants: Sequence[Tensor], state: Float[Tensor, "*batch 4"], push: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 4"]:
    """Rate of a cart with a point mass on a massless pole, in gravity of 9.8 m/s².

    Args:
        constants: mass of the cart and of the tip (kg), length of the pole (m).
        state: position of the cart (m) and its rate, angle from upright (rad) and its rate.
        push: horizontal force on the cart (N).
    """
    cart, tip, length = constants
    _, speed, angle, rate = state.unbind(-1)
    sine, cosine = angle.sin(), angle.cos()
    acceleration = (push + tip * sine * (length * rate**2 - 9.8 * cosine)) / (cart + tip * sine**2)
    return torch.stack([speed, acceleration, rate, (9.8 * sine - acceleration * cosine) / length], -1)


@dataclass(frozen=True)
class Scene:
    """A mechanical system, its pictures, and what is known about it.

    Attributes:
        field: right-hand side in numpy, of a state and a push.
        model: the same in PyTorch, with its constants open.
        constants: the true ones, by name.
        guess: the ones that learning starts from, each a factor 2 off.
        centre: of the range of each coordinate.
        half: half its range.
        coordinates: their names with units.
        draw: states to start from, by a generator and a number.
        picture: frames of states, by states and pixels along an edge.
        push: largest force (N).
        step: time between frames (s).
    """

    field: Callable[[np.ndarray, np.ndarray], np.ndarray]
    model: Field
    constants: dict[str, float]
    guess: tuple[float, ...]
    centre: tuple[float, ...]
    half: tuple[float, ...]
    coordinates: tuple[str, ...]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    picture: Callable[[np.ndarray, int], np.ndarray]
    push: float = 0.0
    step: float = 0.05

    def physics(self) -> Physics:
        """The equations with the first guess of the constants."""
        return Physics(self.model, self.guess, self.centre, self.half, self.step)

    def latents(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """States in units of the latents."""
        return (states - torch.tensor(self.centre).to(states)) / torch.tensor(self.half).to(states)


FASTEST = math.sqrt(2 * 9.8 * (1 - math.cos(2.5)))  # rate at the bottom after a fall from 2.5 rad


def _swing(random: np.random.Generator, runs: int) -> np.ndarray:
    """Angles up to 2.5 rad, with rates that never lead beyond."""
    angle = random.uniform(-2.5, 2.5, runs)
    rate = random.uniform(-1, 1, runs) * np.sqrt(2 * 9.8 * (np.cos(angle) - math.cos(2.5)))
    return np.stack([angle, rate], -1)


def _hang(random: np.random.Generator, runs: int) -> np.ndarray:
    """Carts near the middle of the track, poles hanging down within 1.2 rad."""
    low, high = np.array([-0.8, -0.4, math.pi - 1.2, -1.0]), np.array([0.8, 0.4, math.pi + 1.2, 1.0])
    return random.uniform(low, high, (runs, 4))


SCENES = {
    "pendulum": Scene(
        lambda state, push: mechanics.pendulum(state, gravity=9.8, damping=0.1),
        pendulum,
        {"gravity over length (1/s²)": 9.8, "damping (1/s)": 0.1},
        (4.9, 0.2),
        (0.0, 0.0),
        (2.5, FASTEST),
        ("angle (rad)", "rate (rad/s)"),
        _swing,
        lambda states, size: pixels.draw_pendulum(states[..., 0], size),
    ),
    "cart-pole": Scene(
        lambda state, push: mechanics.cart_pole(state, push),
        cart_pole,
        {"cart (kg)": 1.0, "tip (kg)": 0.1, "length (m)": 0.5},
        (0.5, 0.2, 1.0),
        (0.0, 0.0, math.pi, 0.0),
        (2.0, 1.5, 1.6, 7.0),
        ("position (m)", "speed (m/s)", "angle (rad)", "rate (rad/s)"),
        _hang,
        lambda states, size: pixels.draw_cart_pole(states[..., 0], states[..., 2], size),
        push=3.0,
    ),
}


@dataclass(frozen=True)
class Episodes:
    """Simulated videos.

    Attributes:
        states: in their own units.
        pushes: force from each frame to the next (N).
        frames: brightness from 0 to 1.
    """

    states: Float[Tensor, "episodes time dim"]
    pushes: Float[Tensor, "episodes time"]
    frames: Float[Tensor, "episodes time size size"]


def simulate(
    scene: Scene, start: Float[np.ndarray, "episodes dim"], pushes: Float[np.ndarray, "episodes time"]
) -> Float[np.ndarray, "episodes time dim"]:
    """States by one Runge-Kutta step a frame in float64, the integrator of the model.

    Args:
        scene: what to simulate.
        start: states at the first frame.
        pushes: from each frame to the next.
    """
    state, states = torch.from_numpy(start), [start]
    for push in pushes.T[:-1]:
        state = rk4_step(lambda _, x, push=push: torch.from_numpy(scene.field(x.numpy(), push)), 0.0, state, scene.step)
        states.append(state.numpy())
    return np.stack(states, 1)


def record(scene: Scene, episodes: int, seed: int, time: int = 60, size: int = 16) -> Episodes:
    """Videos from random starts under random pushes; episodes that leave the range of the coordinates are drawn anew.

    Args:
        scene: what to film.
        episodes: how many.
        seed: of starts and pushes.
        time: frames of an episode.
        size: pixels along an edge.

    Raises:
        ValueError: if there is no episode, fewer than two frames, or pictures are too small.
    """
    if episodes < 1 or time < 2:
        raise ValueError(f"episodes is {episodes} and time {time}: give at least 1 and 2")
    random = np.random.default_rng([seed, 12870])
    kept, forces = np.empty((0, time, len(scene.centre))), np.empty((0, time))
    while len(kept) < episodes:
        pushes = random.uniform(-scene.push, scene.push, (episodes, time))
        states = simulate(scene, scene.draw(random, episodes), pushes)
        inside = (np.abs(states - scene.centre) <= scene.half).all((1, 2))
        kept, forces = np.concatenate([kept, states[inside]]), np.concatenate([forces, pushes[inside]])
    states, pushes = torch.from_numpy(kept[:episodes]).float(), torch.from_numpy(forces[:episodes]).float()
    return Episodes(states, pushes, torch.from_numpy(scene.picture(kept[:episodes], size)))
