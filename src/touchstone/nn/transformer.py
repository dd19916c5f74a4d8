"""A small decoder-only transformer: pre-norm blocks, rotary positions, embedding tied to the output."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from touchstone.checks import shaped


def rotate(
    x: Float[Tensor, "*batch tokens features"], base: float = 10_000.0
) -> Float[Tensor, "*batch tokens features"]:
    r"""Rotary positions: turn feature pair :math:`k` of token :math:`i` by the angle :math:`i\,\mathrm{base}^{-2k/d}`.

    The inner product of a rotated query and a rotated key then depends on their distance only (Su et al., 2021,
    arXiv 2104.09864, equation 34). Pair :math:`k` consists of the features :math:`k` and :math:`k + d/2`.

    Args:
        x: queries or keys of one head; the number of features :math:`d` is even.
        base: sets the longest wavelength.

    Returns:
        the rotated features.

    Raises:
        ValueError: if the number of features of ``x`` is odd.
    """
    tokens, features = x.shape[-2:]
    if features % 2:
        raise ValueError(f"x has {features} features: rotary positions turn pairs, so give an even number")
    frequencies = base ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * frequencies
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class CausalAttention(nn.Module):
    """Multi-head softmax attention in which a token sees itself and what came before, with rotary positions.

    Args:
        width: features of a token.
        heads: number of heads; must divide the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads is {heads}, which does not divide the width {width}")
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Mix the tokens."""
        query, key, value = rearrange(self.project(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        return self.out(rearrange(mixed, "b h t d -> b t (h d)"))


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on normalised input and added to the stream."""

    def __init__(self, width: int, heads: int, feed_forward: nn.Module):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), CausalAttention(width, heads)
        self.feed_forward_norm, self.feed_forward = nn.LayerNorm(width), feed_forward

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Pass the tokens through the block."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A language model over a small alphabet.

    All matrices start as normal numbers of variance one over their inputs. The feed-forward layers are drawn last, so
    models that differ only in them share every other weight when they share the seed.

    Args:
        symbols: size of the alphabet.
        feed_forward: makes one feed-forward layer; called once a block.
        width: features of a token.
        heads: attention heads.
        layers: number of blocks.
        seed: of the initial weights.
    """

    def __init__(
        self,
        symbols: int,
        feed_forward: Callable[[], nn.Module],
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        seed: int = 0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward()) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        generator = torch.Generator().manual_seed(seed)
        matrices = [(name, p) for name, p in self.named_parameters() if p.ndim == 2]
        for _, matrix in sorted(matrices, key=lambda pair: "feed_forward" in pair[0]):
            nn.init.normal_(matrix, std=matrix.shape[1] ** -0.5, generator=generator)

    def forward(self, numbers: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens symbols"]:
        """Scores of the next symbol after every token (logits).

        Raises:
            ValueError: if ``numbers`` is empty, not a batch of sequences, or outside the alphabet.
        """
        shaped("numbers", numbers, ("batch", "tokens"))
        if numbers.numel() == 0:
            raise ValueError(f"numbers is empty (shape {tuple(numbers.shape)}): give at least one token")
        if not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self.embedding.weight):
            raise ValueError(f"numbers must lie in 0..{len(self.embedding.weight) - 1}, the alphabet of the model")
        x = self.embedding(numbers)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embedding.weight.T
