"""The part's language model: a two-layer transformer on the characters of Python's help texts, trained from scratch."""

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.data.corpus import CharCorpus, blocks, random_batch
from touchstone.nn.activations import FeedForward, SquaredReLU, SwiGLU
from touchstone.nn.transformer import Transformer

WIDTH, CONTEXT, BATCH, WARM_UP = 64, 64, 16, 50


def baseline(name: str) -> nn.Module:
    """A feed-forward layer of the language model, all of the same number of parameters within one per cent.

    Args:
        name: ``"relu"``, ``"gelu"``, ``"squared-relu"`` or ``"swiglu"``.

    Returns:
        the layer, with 4 x 64 hidden features, or 171 (8/3 x 64) where it is gated.

    Raises:
        ValueError: for another ``name``.
    """
    plain = {"relu": nn.ReLU, "gelu": nn.GELU, "squared-relu": SquaredReLU}
    if name == "swiglu":
        return SwiGLU(WIDTH, round(8 * WIDTH / 3))
    if name not in plain:
        raise ValueError(f"name is {name!r}, expected one of {sorted([*plain, 'swiglu'])}")
    return FeedForward(WIDTH, 4 * WIDTH, plain[name]())


@torch.no_grad()
def loss_on(model: nn.Module, inputs: Int[Tensor, "blocks context"], targets: Int[Tensor, "blocks context"]) -> float:
    """Mean cross-entropy over fixed blocks, in nats a character."""
    total = 0.0
    for block, target in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
        total += F.cross_entropy(model(block).flatten(0, 1), target.flatten(), reduction="sum").item()
    return total / targets.numel()


def train(
    model: Transformer, corpus: CharCorpus, seed: int, rate: float = 2e-3, steps: int = 600, every: int = 20
) -> dict[str, float | list[float]]:
    """Train with AdamW: linear warm-up over 50 steps, then a cosine to zero; gradient norm at most 1.

    Batches depend on the seed alone, so models of one seed see the same text in the same order.

    Args:
        model: trained in place.
        corpus: the text.
        seed: of the batches.
        rate: the highest learning rate.
        steps: batches of 16 windows of 64 characters.
        every: steps between two validations on 128 fixed blocks.

    Returns:
        ``loss``: on all validation blocks after the last step, nats a character; ``curve``: on the 128 blocks after
        every so many steps, the last entry after the last step; ``step_ms``: milliseconds a training step.

    Raises:
        ValueError: if ``steps`` is not a positive multiple of ``every``, or ``rate`` is not positive.
    """
    if every < 1 or steps < every or steps % every:
        raise ValueError(f"steps is {steps}: give a positive multiple of every, which is {every}")
    if not 0 < rate < math.inf:
        raise ValueError(f"rate is {rate}: give a positive number")
    few = blocks(corpus.validation, CONTEXT, count=128)
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]  # norms and polynomial coefficients: no decay
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)
    curve, spent = [], 0.0
    for step in range(steps):
        begin = time.perf_counter()
        warm = min(1.0, (step + 1) / WARM_UP)
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        inputs, targets = random_batch(corpus.train, CONTEXT, BATCH, generator)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        spent += time.perf_counter() - begin
        if (step + 1) % every == 0:
            curve.append(loss_on(model, *few))
    return {"loss": loss_on(model, *blocks(corpus.validation, CONTEXT)), "curve": curve, "step_ms": 1e3 * spent / steps}


def steps_to_reach(curve: list[float], target: float, every: int = 20) -> float:
    """The first validated step at which a loss curve is at or below a target; infinite if it never is.

    Raises:
        ValueError: if ``curve`` is empty.
    """
    if len(curve) == 0:
        raise ValueError("curve is empty: give at least one validation loss")
    return next((float(every * place) for place, loss in enumerate(curve, 1) if loss <= target), math.inf)


def effective_rank(x: Float[Tensor, "tokens features"]) -> float:
    r"""The exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007).

    Args:
        x: one row a token; columns are centred first.

    Returns:
        a number from 1 (all rows on one line) to the number of features.

    Raises:
        ValueError: if ``x`` is not a matrix, is empty or not finite, or has equal rows only.
    """
    shaped("x", x, ("tokens", "features"))
    finite(x=x)
    singular = torch.linalg.svdvals((x - x.mean(0)).double())
    if singular.sum() == 0:
        raise ValueError("x has equal rows only: its rank is not defined")
    share = singular / singular.sum()
    return math.exp(torch.special.entr(share).sum().item())


@torch.no_grad()
def hidden_rank(model: Transformer, inputs: Int[Tensor, "blocks context"]) -> list[float]:
    """Effective rank of the hidden activations of every feed-forward layer, over all tokens of some blocks."""
    seen: list[Tensor] = []

    def watch(layer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        seen.append(layer.hidden(arguments[0]).flatten(0, 1))

    hooks: list[Callable] = [block.feed_forward.register_forward_hook(watch) for block in model.blocks]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return [effective_rank(x) for x in seen]
