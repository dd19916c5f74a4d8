r"""Supervised disentanglement of a video model: a recurrent state-space model whose first state variables encode parameters.

A convolutional encoder reads a frame; a gated recurrent unit carries the deterministic state h, and a Gaussian state s follows
from h alone (prior) or from h and the frame (posterior); frames are decoded from both. The loss is the squared error
of the frames, summed over pixels, plus the divergence of posterior from prior, plus :math:`\delta|\mu_i-\bar\xi_i|` for the
posterior means of the first state variables, mean over time.

Source: arXiv:2108.11684 and the branch ``rssm`` of its code; state-space model: arXiv:1811.04551.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from touchstone.checks import finite, shaped


class VideoModel(nn.Module):
    """Recurrent state-space model of 32 x 32 frames.

    Args:
        state: stochastic state variables.
        memory: deterministic ones.
        channels: of the four convolutions.
        least: smallest standard deviation of the stochastic state.
    """

    def __init__(
        self, state: int = 16, memory: int = 64, channels: tuple[int, ...] = (8, 16, 32, 32), least: float = 0.1
    ):
        super().__init__()
        self.state, self.memory, self.least = state, memory, least
        pairs, wide = list(zip((1, *channels[:-1]), channels, strict=True)), 4 * channels[-1]
        down = [layer for a, b in pairs for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())]
        up = [layer for a, b in pairs[::-1] for layer in (nn.ReLU(), nn.ConvTranspose2d(b, a, 4, 2, 1))]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.decoder = nn.Sequential(nn.Linear(state + memory, wide), nn.Unflatten(1, (channels[-1], 2, 2)), *up)
        self.enter, self.cell = nn.Linear(state, memory), nn.GRUCell(memory, memory)
        self.prior = nn.Sequential(nn.Linear(memory, memory), nn.ReLU(), nn.Linear(memory, 2 * state))
        self.posterior = nn.Sequential(nn.Linear(memory + wide, memory), nn.ReLU(), nn.Linear(memory, 2 * state))

    def gaussian(self, numbers: Float[Tensor, "batch twice"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a state."""
        mean, spread = numbers.chunk(2, -1)
        return mean, functional.softplus(spread) + self.least

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """State and memory before the first frame."""
        return torch.zeros(batch, self.state), torch.zeros(batch, self.memory)

    def advance(self, state: Float[Tensor, "batch state"], memory: Float[Tensor, "batch memory"]) -> Tensor:
        """The memory a frame later."""
        return self.cell(functional.relu(self.enter(state)), memory)

    def decode(
        self, states: Float[Tensor, "batch time state"], memories: Float[Tensor, "batch time memory"]
    ) -> Float[Tensor, "batch time 32 32"]:
        """Frames."""
        both = torch.cat([states, memories], -1)
        return self.decoder(both.flatten(0, 1)).unflatten(0, both.shape[:2])[:, :, 0]

    def losses(
        self, frames: Float[Tensor, "batch time 32 32"], labels: Float[Tensor, "batch parameters"], free: float = 1.0
    ) -> dict[str, Float[Tensor, ""]]:
        """The three parts of the loss on stretches of video.

        Args:
            frames: brightness from 0 to 1.
            labels: scaled parameters.
            free: nats of divergence that a frame may cost without penalty.

        Raises:
            ValueError: if arguments are empty, not finite or of another shape.
        """
        finite(frames=frames, labels=labels)
        shaped("frames", frames, ("batch", "time", 32, 32))
        shaped("labels", labels, (len(frames), "parameters"))
        seen = self.encoder(frames.flatten(0, 1)[:, None]).unflatten(0, frames.shape[:2])
        state, memory = self.start(len(frames))
        states, memories, extra, missed = [], [], 0.0, 0.0
        for t in range(frames.shape[1]):
            memory = self.advance(state, memory)
            mean, spread = self.gaussian(self.posterior(torch.cat([memory, seen[:, t]], -1)))
            state = mean + spread * torch.randn_like(spread)
            prior, wide = self.gaussian(self.prior(memory))
            nats = (wide / spread).log() + (spread.square() + (mean - prior).square()) / (2 * wide.square()) - 0.5
            extra = extra + nats.sum(-1).clamp(min=free).mean()
            missed = missed + (mean[:, : labels.shape[1]] - labels).abs().mean()
            states.append(state), memories.append(memory)
        misfit = self.decode(torch.stack(states, 1), torch.stack(memories, 1)) - frames
        length = frames.shape[1]
        return {
            "pixels": misfit.square().sum((2, 3)).mean(),
            "divergence": extra / length,
            "supervision": missed / length,
        }

    @torch.no_grad()
    def forecast(
        self, context: Float[Tensor, "runs time 32 32"], steps: int
    ) -> tuple[Float[Tensor, "runs steps 32 32"], Float[Tensor, "runs state"]]:
        """Frames after a context, by the prior's means; and the posterior mean at the last frame seen.

        Args:
            context: frames that are seen.
            steps: frames to append.
        """
        finite(context=context)
        state, memory = self.start(len(context))
        for frame in self.encoder(context.flatten(0, 1)[:, None]).unflatten(0, context.shape[:2]).unbind(1):
            memory = self.advance(state, memory)
            state, _ = self.gaussian(self.posterior(torch.cat([memory, frame], -1)))
        read, states, memories = state, [], []
        for _ in range(steps):
            memory = self.advance(state, memory)
            state, _ = self.gaussian(self.prior(memory))
            states.append(state), memories.append(memory)
        return self.decode(torch.stack(states, 1), torch.stack(memories, 1)), read


def train_video(
    frames: Float[Tensor, "runs time 32 32"],
    labels: Float[Tensor, "runs parameters"],
    seed: int,
    delta: float = 0.0,
    updates: int = 400,
    batch: int = 8,
    length: int = 20,
    rate: float = 1e-3,
) -> VideoModel:
    """Adam on random stretches of the videos; models of a seed share start, stretches and noise whatever delta is.

    Args:
        frames: training videos.
        labels: their scaled parameters.
        seed: of weights, stretches and noise.
        delta: weight of the supervision, in squared brightness summed over a frame; 0 for the plain model.
        updates: of Adam.
        batch: stretches an update.
        length: frames of a stretch.
        rate: learning rate.

    Raises:
        ValueError: if the videos are shorter than ``length``.
    """
    if frames.shape[1] < length:
        raise ValueError(f"length is {length}: videos have {frames.shape[1]} frames")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VideoModel()
        optimiser = torch.optim.Adam(model.parameters(), rate)
        for _ in range(updates):
            run = torch.randint(len(frames), (batch,))
            first = torch.randint(frames.shape[1] - length + 1, (batch, 1))
            parts = model.losses(frames[run[:, None], first + torch.arange(length)], labels[run])
            optimiser.zero_grad()
            (parts["pixels"] + parts["divergence"] + delta * parts["supervision"]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimiser.step()
    return model
