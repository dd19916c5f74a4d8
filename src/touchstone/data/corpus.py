"""A character corpus that every Python carries: the help texts of ``pydoc``, split by topic into training and validation."""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

import torch
from jaxtyping import Int
from torch import Tensor

from touchstone.checks import shaped

RARE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class CharCorpus:
    """Text as symbol numbers, and what is needed to read them back.

    Attributes:
        train: symbol numbers of the training topics, one after the other.
        validation: symbol numbers of the held-out topics.
        symbols: the alphabet in the order of the symbol numbers; the last one stands for all rare characters.
        topics: the topics' names and, for each, whether it is held out.
        digest: SHA-256 of the whole text, in hexadecimal.
    """

    train: Int[Tensor, "train_characters"]
    validation: Int[Tensor, "validation_characters"]
    symbols: str
    topics: dict[str, bool]
    digest: str

    def decode(self, numbers: Int[Tensor, "characters"]) -> str:
        """The text that a sequence of symbol numbers stands for."""
        return "".join(self.symbols[number] for number in numbers.tolist())


def pydoc_corpus(rare: int = 20, every: int = 10) -> CharCorpus:
    """The language reference as shipped in ``pydoc_data.topics``, about 465,000 characters in Python 3.11.

    The text belongs to the Python that runs, so its length and digest change a little between versions; both are
    reported with every result that rests on it.

    Args:
        rare: characters that occur less often than this in the whole text share one symbol.
        every: every so-manieth topic, in alphabetical order from the first, is held out whole.

    Returns:
        the corpus; whole topics are held out, so no validation text borders on training text.

    Raises:
        ValueError: if ``rare`` is below 1 or ``every`` below 2.
    """
    if rare < 1:
        raise ValueError(f"rare is {rare}: a character occurs at least once, give 1 or more")
    if every < 2:
        raise ValueError(f"every is {every}: give at least 2, or nothing is left to train on")
    from pydoc_data.topics import topics as texts

    names = sorted(texts)
    text = "".join(texts[name] for name in names)
    counts = Counter(text)
    symbols = "".join(sorted(c for c, count in counts.items() if count >= rare and c != RARE)) + RARE
    number = {symbol: i for i, symbol in enumerate(symbols)}
    held_out = {name: place % every == 0 for place, name in enumerate(names)}

    def encode(validation: bool) -> Tensor:
        chosen = "".join(texts[name] for name in names if held_out[name] == validation)
        return torch.tensor([number.get(c, len(symbols) - 1) for c in chosen])

    return CharCorpus(encode(False), encode(True), symbols, held_out, sha256(text.encode()).hexdigest())


def blocks(
    text: Int[Tensor, "characters"], context: int, count: int | None = None
) -> tuple[Int[Tensor, "blocks context"], Int[Tensor, "blocks context"]]:
    """Cut a text into fixed blocks that do not overlap, for a validation loss that is the same for every model.

    Args:
        text: symbol numbers.
        context: characters a block.
        count: how many blocks, spread evenly over the text; all that fit if None.

    Returns:
        inputs, and targets: the same characters one place later.

    Raises:
        ValueError: if ``text`` is not one sequence or too short for the blocks asked for, or ``context`` is below 1.
    """
    shaped("text", text, ("characters",))
    if context < 1:
        raise ValueError(f"context is {context}: a block needs at least one character")
    fitting = (len(text) - 1) // context
    count = fitting if count is None else count
    if fitting < 1 or not 1 <= count <= fitting:
        raise ValueError(f"text has {len(text)} characters: {fitting} blocks of {context} fit, {max(count, 1)} wanted")
    starts = torch.arange(count) * fitting // count * context
    places = starts[:, None] + torch.arange(context)
    return text[places], text[places + 1]


def random_batch(
    text: Int[Tensor, "characters"], context: int, batch: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]:
    """Draw windows at random places of a text.

    Args:
        text: symbol numbers.
        context: characters a window.
        batch: number of windows.
        generator: source of the places; equal seeds give equal batches.

    Returns:
        inputs, and targets: the same characters one place later.

    Raises:
        ValueError: if ``text`` is not one sequence or too short for a window.
    """
    shaped("text", text, ("characters",))
    if len(text) <= context:
        raise ValueError(f"text has {len(text)} characters, too short for a window of {context} and its target")
    places = torch.randint(len(text) - context, (batch, 1), generator=generator) + torch.arange(context)
    return text[places], text[places + 1]
