"""NGCF written out node by node, and the two recommenders that do not learn."""

import pytest
import torch
from torch.nn import functional

from tests.helpers import unchecked
from touchstone.data.interactions import Interactions, planted_interactions
from touchstone.graphs.bipartite import UserItemGraph
from touchstone.graphs.recommenders import NGCF, neighbour_scores, popularity_scores

PAIRS = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 2], [2, 0], [2, 2], [2, 3]])
NONE = torch.empty(0, 2, dtype=torch.int64)
TOY = Interactions(3, 4, PAIRS, NONE, NONE)


def model(**options):
    graph = UserItemGraph(PAIRS, 3, 4)
    return NGCF(graph, 5, 1, generator=torch.Generator().manual_seed(0), **options).eval()


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("nonlinear", [True, False])
def test_one_layer_equals_the_sum_over_neighbours(transform, nonlinear):
    network = model(transform=transform, nonlinear=nonlinear, combine="sum")
    with torch.no_grad():
        network.embedding.mul_(3)
    start = network.embedding.detach()
    own, paired = (network.own[0], network.paired[0]) if transform else (torch.eye(5), torch.eye(5))
    degree = torch.bincount(torch.cat([PAIRS[:, 0], 3 + PAIRS[:, 1]]))
    wanted = []
    for node in range(7):
        message = start[node] @ own
        for user, item in PAIRS.tolist():
            if node in (user, 3 + item):
                other = user + 3 + item - node
                norm = (degree[node] * degree[other]) ** 0.5
                message = message + (start[other] @ own + (start[other] * start[node]) @ paired) / norm
        wanted.append(start[node] + (functional.leaky_relu(message, 0.2) if nonlinear else message))
    assert torch.allclose(torch.cat(network()), torch.stack(wanted), atol=1e-6)


def test_concatenation_keeps_layer_zero_and_dropout_is_training_only():
    network = model(dropout=0.5)
    users, items = network()
    assert users.shape == (3, 10) and items.shape == (4, 10)
    assert torch.equal(users[:, :5], network.embedding[:3])
    assert torch.equal(users, network()[0])
    torch.manual_seed(0)
    assert not torch.equal(users, network.train()()[0])


def test_unknown_combination_is_named():
    with pytest.raises(ValueError, match="combine must be"):
        model(combine="max")


def test_popularity_counts_training_items():
    assert popularity_scores(TOY).tolist() == [[2, 2, 2, 1]] * 3


def test_neighbours_by_hand():
    # cosine(0,1) = 1/2, (0,2) = 1/2, (1,2) = 1/2, (0,3) = (2,3) = 1/sqrt(2); user 1 met items 1 and 2.
    scores = neighbour_scores(TOY)[1]
    assert torch.allclose(scores, torch.tensor([1.0, 0.5, 0.5, 0.5**0.5]))


def test_neighbours_refuses_none():
    with pytest.raises(ValueError, match="neighbours must be"):
        unchecked(neighbour_scores)(planted_interactions(0, 10, 30, mean=6.0), 0)
