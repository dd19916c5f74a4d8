"""Rivals of :mod:`~touchstone.dynamics.interpretable_world_model`, and the score of all.

Source: D. Ha, J. Schmidhuber, 2018, arXiv:1803.10122 (autoencoder with a recurrent network between its latents).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.dynamics import interpretable_world_model as world
from touchstone.dynamics.interpretable_world_model_systems import Episodes, Scene
from touchstone.dynamics.lstm import LSTM


class Recurrent(nn.Module):
    """A long short-term memory network in place of the equations; it hears the push as one more state.

    Args:
        dim: number of latents.
        seed: of the initial weights.
        width: memory cells.
    """

    def __init__(self, dim: int, seed: int, width: int = 64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = LSTM(dim + 1, width, torch.ones(dim + 1))
        self.register_buffer("constants", torch.empty(0))

    def forward(
        self, latents: Float[Tensor, "runs dim"], push: Float[Tensor, "runs"], memory: tuple | None = None
    ) -> tuple[Float[Tensor, "runs dim"], tuple]:
        """Latents a frame later, and the memory."""
        following, memory = self.network(torch.cat([latents, push[:, None]], -1)[:, None], memory)
        return following[:, 0, :-1], memory


# dynamics (the equations or a recurrent network) and whether there are intervals; "full labels" has intervals of width 0
MODELS = {
    "physics and intervals": ("physics", True),
    "VAE and LSTM": ("recurrent", False),
    "intervals and LSTM": ("recurrent", True),
    "physics alone": ("physics", False),
    "full labels": ("physics", True),
}


def fit(
    scene: Scene,
    episodes: Episodes,
    kind: str,
    seed: int,
    width: float = 0.1,
    coarse: tuple[int, ...] | None = None,
    **options: object,
) -> tuple[world.WorldModel, Float[Tensor, "updates constants"]]:
    """Train the method or a rival: same networks, windows, updates and weights.

    Args:
        scene: what was filmed.
        episodes: to train on.
        kind: a key of ``MODELS``.
        seed: of weights, windows and intervals.
        width: of the intervals, as a share of the range.
        coarse: coordinates that have intervals; all by default.
        **options: of :func:`~touchstone.dynamics.interpretable_world_model.train`.

    Returns:
        the model, and its constants after every update.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in MODELS:
        raise ValueError(f"kind is {kind!r}: choose among {', '.join(MODELS)}")
    engine, bounded = MODELS[kind]
    dim = len(scene.centre)
    dynamics = scene.physics() if engine == "physics" else Recurrent(dim, seed)
    model = world.WorldModel(dim, dynamics, seed, episodes.frames.shape[-1])
    width = (0.0 if kind == "full labels" else width) if bounded else math.inf
    truth = scene.latents(episodes.states)
    lower, upper = world.draw_intervals(truth, torch.full((dim,), 2.0), width, seed)  # a range is 2 latents wide
    for free in set(range(dim)) - set(range(dim) if coarse is None else coarse):
        lower[..., free], upper[..., free] = -math.inf, math.inf
    return model, world.train(model, episodes.frames, episodes.pushes, lower, upper, seed, **options)


def affine(
    codes: Float[Tensor, "*batch dim"], truth: Float[Tensor, "*batch dim"]
) -> Callable[[Float[Tensor, "*batch dim"]], Float[Tensor, "*batch dim"]]:
    """The affine map that takes codes closest to the truth in the squared error.

    Args:
        codes: encoded states.
        truth: true ones.

    Returns:
        the map; one to NaN where a code is not finite, as after a prediction that ran away.
    """

    def extended(values: Tensor) -> Tensor:
        return torch.cat([values, torch.ones_like(values[..., :1])], -1)

    known, wanted = extended(codes).flatten(0, -2).double(), truth.flatten(0, -2).double()
    if not torch.isfinite(known).all():
        return lambda values: torch.full_like(values, math.nan)
    matrix = torch.linalg.lstsq(known, wanted).solution.to(codes.dtype)
    return lambda values: extended(values) @ matrix


@torch.no_grad()
def judge(model: world.WorldModel, scene: Scene, episodes: Episodes, steps: int = 50) -> dict[str, object]:
    """Encoding and prediction on test episodes; errors are mean absolute ones in shares of the range.

    Args:
        model: trained.
        scene: what was filmed.
        episodes: to test on, at least ``steps`` + 2 frames long.
        steps: frames predicted from the first two.

    Returns:
        ``own`` and ``mapped``, errors of the encoded states (one a coordinate) as they are and after the affine map that
        is best on these very episodes; ``ahead`` and ``ahead_mapped``, errors of predicted states (mean over coordinates)
        after 1, 2, ... frames, as they are and after the map that is best for just that number of frames; ``psnr`` of the
        predicted pictures (dB); ``true``, ``code`` and ``code_mapped``, states and codes to draw.
    """
    pairs, truth, half = world.pairs_of(episodes.frames), scene.latents(episodes.states)[:, 1:], 2.0
    codes = model.encode(pairs)[0]
    mapping = affine(codes, truth)
    ahead = world.rollout(model.dynamics, codes[:, 0], episodes.pushes[:, 1 : steps + 1])
    future = truth[:, 1 : steps + 1]
    drawn = (model.decode(ahead) - pairs[:, 1 : steps + 1]).square().mean((0, 2, 3, 4))
    return {
        "own": ((codes - truth).abs().mean((0, 1)) / half).tolist(),
        "mapped": ((mapping(codes) - truth).abs().mean((0, 1)) / half).tolist(),
        "ahead": ((ahead - future).abs().mean((0, 2)) / half).tolist(),
        "ahead_mapped": [
            ((affine(code, state)(code) - state).abs().mean() / half).item()
            for code, state in zip(ahead.unbind(1), future.unbind(1), strict=True)
        ],
        "psnr": (-10 * drawn.log10()).tolist(),
        "true": truth,
        "code": codes,
        "code_mapped": mapping(codes),
    }
