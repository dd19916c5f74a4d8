"""Recall@k and NDCG@k against hand counts and scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import ndcg_score

from tests.helpers import unchecked
from touchstone.metrics.ranking import ranking_score

NONE = torch.zeros(1, 4, dtype=torch.bool)


def test_hand_count_with_masking():
    scores = torch.tensor([[9.0, 3.0, 2.0, 1.0]])
    relevant = torch.tensor([[False, False, True, True]])
    seen = torch.tensor([[True, False, False, False]])
    result = ranking_score(scores, relevant, seen, k=2)  # ranked: item 1, item 2 | item 3
    assert result.recall == pytest.approx(0.5)
    assert result.ndcg == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))


def test_users_without_relevant_items_are_skipped():
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    relevant = torch.tensor([[True, False], [False, False]])
    assert ranking_score(scores, relevant, torch.zeros(2, 2, dtype=torch.bool), k=1) == (1.0, 1.0, 1)


def test_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 60, generator=generator)
    relevant = torch.rand(20, 60, generator=generator) < 0.1
    relevant[:, 0] = True
    ours = ranking_score(scores, relevant, torch.zeros_like(relevant), k=10).ndcg
    assert ours == pytest.approx(ndcg_score(relevant.numpy(), scores.numpy(), k=10), abs=1e-12)


def test_reversing_the_scores_matters():
    scores = torch.arange(4.0)[None]
    relevant = torch.tensor([[False, False, False, True]])
    assert ranking_score(scores, relevant, NONE, k=2).recall == 1
    assert ranking_score(-scores, relevant, NONE, k=2).recall == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.full((1, 4), float("nan")), ~NONE, NONE), "scores holds 4 NaN"),
        ((torch.empty(0, 4), ~NONE[:0], NONE[:0]), "scores is empty"),
        ((torch.ones(1, 4), ~NONE[:, :2], NONE), "relevant has shape"),
        ((torch.ones(1, 4), NONE, NONE[:, :2]), "seen has shape"),
        ((torch.ones(1, 4), NONE, NONE), "relevant is empty"),
        ((torch.ones(1, 4), ~NONE, ~NONE), "relevant holds items that are also seen"),
        ((torch.ones(1, 4), ~NONE, NONE, 0), "k must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unchecked(ranking_score)(*arguments)
