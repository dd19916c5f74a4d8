"""What the user-item graph refuses; its products are held against dense ones in the tests of LightGCN."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.graphs.bipartite import UserItemGraph


def test_repeated_pairs_count_once():
    pairs = torch.tensor([[0, 0], [0, 1], [0, 1]])
    values = UserItemGraph(pairs, 1, 2, weight="L") @ torch.ones(3, 1)
    assert torch.allclose(values.squeeze(1), torch.tensor([2**0.5, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.empty(0, 2, dtype=torch.int64), "pairs is empty"),
        (torch.zeros(3, 3, dtype=torch.int64), "pairs has shape"),
        (torch.tensor([[0, 9]]), "pairs must hold"),
        (torch.tensor([[-1, 0]]), "pairs must hold"),
        (torch.full((2, 2), torch.nan), "pairs holds 4 NaN"),
    ],
)
def test_bad_pairs_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        unchecked(UserItemGraph.__init__)(object.__new__(UserItemGraph), pairs, 3, 3)


def test_unknown_weight_is_named():
    with pytest.raises(ValueError, match="weight 'row' is unknown"):
        UserItemGraph(torch.tensor([[0, 0]]), 1, 1, weight="row")
