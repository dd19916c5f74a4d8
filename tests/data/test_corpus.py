"""The pydoc corpus: the pinned text, the split by topic, and windows whose targets are one place later."""

import platform
from pydoc_data.topics import topics

import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.corpus import RARE, blocks, pydoc_corpus, random_batch

# Python 3.11.7; other patch releases change a few words.
DIGEST = "37d06970fc926e60c16dff401e441b84752446a36b6b64516c229fdec77e992c"


@pytest.fixture(scope="module")
def corpus():
    return pydoc_corpus()


def test_the_text_is_the_pinned_one(corpus):
    if platform.python_version() == "3.11.7":
        assert corpus.digest == DIGEST
        assert (len(corpus.train), len(corpus.validation), len(corpus.symbols)) == (432_824, 32_146, 96)
    assert len(corpus.digest) == 64
    assert 440_000 < len(corpus.train) + len(corpus.validation) < 520_000
    assert 90 <= len(corpus.symbols) <= 102
    assert 0.04 < len(corpus.validation) / len(corpus.train) < 0.16


def test_it_is_the_same_every_time(corpus):
    again = pydoc_corpus()
    assert again.digest == corpus.digest
    assert torch.equal(again.train, corpus.train) and torch.equal(again.validation, corpus.validation)


def test_every_tenth_topic_is_held_out_whole(corpus):
    names = sorted(topics)
    held = [name for name in names if corpus.topics[name]]
    assert held == names[::10]
    text = "".join(topics[name] for name in held)
    decoded = corpus.decode(corpus.validation)
    assert all(a == b or b == RARE for a, b in zip(text, decoded, strict=True))


def test_rare_characters_share_the_last_symbol(corpus):
    text = "".join(topics.values())
    rare = {c for c in set(text) if text.count(c) < 20}
    assert rare and not rare & set(corpus.symbols)
    everything = torch.cat((corpus.train, corpus.validation))
    assert (everything == len(corpus.symbols) - 1).sum() == sum(text.count(c) for c in rare)


def test_blocks_do_not_overlap_and_targets_are_one_later():
    text = torch.arange(25)
    inputs, targets = blocks(text, 4)
    assert torch.equal(inputs.flatten(), torch.arange(24))
    assert torch.equal(targets, inputs + 1)
    assert blocks(text, 4, count=3)[0][:, 0].tolist() == [0, 8, 16]


def test_random_batches_follow_the_seed():
    text = torch.arange(100)
    first, targets = random_batch(text, 8, 5, torch.Generator().manual_seed(3))
    assert torch.equal(targets, first + 1)
    assert torch.equal(first, random_batch(text, 8, 5, torch.Generator().manual_seed(3))[0])
    assert not torch.equal(first, random_batch(text, 8, 5, torch.Generator().manual_seed(4))[0])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: pydoc_corpus(rare=0), "rare"),
        (lambda: pydoc_corpus(every=1), "every"),
        (lambda: unchecked(blocks)(torch.zeros(2, 9, dtype=torch.long), 4), "text"),
        (lambda: blocks(torch.zeros(0, dtype=torch.long), 4), "text"),
        (lambda: blocks(torch.arange(9), 0), "context"),
        (lambda: blocks(torch.arange(9), 4, count=3), "text"),
        (lambda: random_batch(torch.arange(4), 4, 2, torch.Generator()), "text"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
