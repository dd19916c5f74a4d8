"""The language-model harness: it learns, repeats itself bit for bit, and measures what it says."""

import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.corpus import pydoc_corpus
from touchstone.nn.transformer import Transformer
from touchstone.sequences.char_lm import baseline, effective_rank, hidden_rank, loss_on, steps_to_reach, train


@pytest.fixture(scope="module")
def corpus():
    return pydoc_corpus()


def test_training_learns_and_repeats_itself(corpus):
    runs = []
    for _ in range(2):
        model = Transformer(len(corpus.symbols), lambda: baseline("swiglu"), seed=1)
        runs.append(train(model, corpus, seed=1, steps=12, every=6))
    assert runs[0]["loss"] == runs[1]["loss"] and runs[0]["curve"] == runs[1]["curve"]
    assert runs[0]["curve"][1] < runs[0]["curve"][0] < 5.5
    assert len(hidden_rank(model, corpus.validation[:128].reshape(2, 64))) == 2


def test_loss_of_an_even_guess_is_the_log_of_the_alphabet(corpus):
    class Even(torch.nn.Module):
        def forward(self, numbers):
            return torch.zeros(*numbers.shape, 96)

    inputs = torch.zeros(20, 64, dtype=torch.long)
    assert loss_on(Even(), inputs, inputs) == pytest.approx(math.log(96), rel=1e-6)


def test_steps_to_reach():
    assert steps_to_reach([3.0, 2.0, 1.0], 2.0) == 40
    assert steps_to_reach([3.0, 2.0, 1.0], 0.5) == math.inf
    assert steps_to_reach([3.0, 2.0], 2.5, every=5) == 10


def test_effective_rank_of_known_spectra():
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(50, 1, generator=generator) * torch.ones(1, 6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    both = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert effective_rank(both) == pytest.approx(2, abs=1e-6)
    assert effective_rank(both + 7) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: baseline("tanh"), "name"),
        (lambda: steps_to_reach([], 1.0), "curve"),
        (lambda: effective_rank(torch.full((3, 2), torch.nan)), "x"),
        (lambda: unchecked(effective_rank)(torch.zeros(3)), "x"),
        (lambda: effective_rank(torch.zeros(0, 2)), "x"),
        (lambda: effective_rank(torch.ones(3, 2)), "x"),
        (lambda: train(Transformer(9, lambda: baseline("relu")), pydoc_corpus(), 0, steps=7, every=5), "steps"),
        (lambda: train(Transformer(9, lambda: baseline("relu")), pydoc_corpus(), 0, rate=0.0), "rate"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
