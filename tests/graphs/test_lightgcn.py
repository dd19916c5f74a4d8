"""LightGCN against dense matrix powers, matrix factorisation and personalised PageRank."""

import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.interactions import planted_interactions
from touchstone.graphs.bipartite import UserItemGraph
from touchstone.graphs.lightgcn import LightGCN, layer_weights, propagate, smoothness

USERS, ITEMS = 12, 15
PAIRS = torch.nonzero(torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.3)
PAIRS = PAIRS[(PAIRS[:, 0] != 3) & (PAIRS[:, 1] != 5)]  # one isolated user, one isolated item


def dense(self_loops=False):
    """The symmetric normalised adjacency written out, without the code under test."""
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    for user, item in PAIRS.tolist():
        adjacency[user, USERS + item] = adjacency[USERS + item, user] = 1
    if self_loops:
        adjacency += torch.eye(USERS + ITEMS, dtype=torch.float64)
    degree = adjacency.sum(1).clamp(min=1)
    return adjacency / torch.sqrt(degree[:, None] * degree)


def graph(**options):
    return UserItemGraph(PAIRS, USERS, ITEMS, dtype=torch.float64, **options)


def embedding(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(USERS + ITEMS, 4, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("kind", ["mean", "last", "restart"])
def test_propagation_is_the_dense_matrix_power_sum(kind):
    start = embedding()
    weights = layer_weights(3, kind)
    wanted = sum(weights[k] * torch.linalg.matrix_power(dense(), k) @ start for k in range(4))
    assert torch.allclose(propagate(graph(), start, weights), wanted, atol=1e-10)


def test_gradient_is_that_of_the_dense_form():
    sparse, plain = embedding().requires_grad_(), embedding().requires_grad_()
    weights, target = layer_weights(3), embedding(2)
    (propagate(graph(), sparse, weights) - target).pow(3).sum().backward()
    power = sum(weights[k] * torch.linalg.matrix_power(dense(), k) for k in range(4))
    (power @ plain - target).pow(3).sum().backward()
    assert torch.allclose(sparse.grad, plain.grad, atol=1e-10)


@pytest.mark.parametrize("weight", ["L", "R", "L1", "L1-L", "L1-R"])
def test_other_weights_and_their_gradients(weight):
    adjacency = (dense() > 0).double()
    degree = adjacency.sum(1).clamp(min=1)
    left, right = {"L": (0.5, 0), "R": (0, 0.5), "L1": (1, 1), "L1-L": (1, 0), "L1-R": (0, 1)}[weight]
    matrix = degree[:, None] ** -left * adjacency * degree**-right
    sparse, plain = embedding().requires_grad_(), embedding().requires_grad_()
    (graph(weight=weight) @ sparse).pow(2).sum().backward()
    (matrix @ plain).pow(2).sum().backward()
    assert torch.allclose(graph(weight=weight) @ sparse, matrix @ plain, atol=1e-12)
    assert torch.allclose(sparse.grad, plain.grad, atol=1e-10)


def test_no_layer_is_matrix_factorisation():
    model = LightGCN(UserItemGraph(PAIRS, USERS, ITEMS), 4, layers=0, generator=torch.Generator().manual_seed(0))
    users, items = model()
    plain = model.embedding.detach().clone().requires_grad_()
    assert torch.equal(users @ items.T, plain[:USERS] @ plain[USERS:].T)
    (users @ items.T).pow(2).sum().backward()
    (plain[:USERS] @ plain[USERS:].T).pow(2).sum().backward()
    assert torch.equal(model.embedding.grad, plain.grad)


def test_binomial_weights_are_self_connections():
    layers = 4
    weights = torch.tensor([float(math.comb(layers, k)) for k in range(layers + 1)], dtype=torch.float64)
    both = torch.linalg.matrix_power(torch.eye(USERS + ITEMS, dtype=torch.float64) + dense(), layers)
    assert torch.allclose(propagate(graph(), embedding(), weights), both @ embedding(), atol=1e-10)


def test_restart_weights_are_personalised_pagerank():
    state, start, restart = embedding(), embedding(), 0.2
    for _ in range(5):
        state = (1 - restart) * dense() @ state + restart * start
    assert torch.allclose(propagate(graph(), start, layer_weights(5, "restart", restart)), state, atol=1e-10)


def test_root_degree_is_unchanged():
    adjacency = (dense() > 0).double()
    degree = adjacency.sum(1)
    start = degree.sqrt()[:, None] * torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert torch.allclose(propagate(graph(), start, layer_weights(3)), start, atol=1e-12)


def test_relabelling_permutes_the_scores():
    start, generator = embedding(), torch.Generator().manual_seed(4)
    user_order, item_order = torch.randperm(USERS, generator=generator), torch.randperm(ITEMS, generator=generator)
    moved = torch.stack([user_order[PAIRS[:, 0]], item_order[PAIRS[:, 1]]], 1)
    place = torch.cat([user_order, USERS + item_order])
    renamed = torch.empty_like(start)
    renamed[place] = start
    there = propagate(UserItemGraph(moved, USERS, ITEMS, dtype=torch.float64), renamed, layer_weights(3))
    assert torch.allclose(there[place], propagate(graph(), start, layer_weights(3)), atol=1e-12)


def test_self_loops_change_degrees_too():
    assert torch.allclose(graph(self_loops=True) @ embedding(), dense(self_loops=True) @ embedding(), atol=1e-12)


def test_smoothness_is_the_double_sum():
    start, matrix = embedding(), dense()
    coefficient = (matrix @ matrix)[:USERS, :USERS]
    scaled = (start / start.square().sum(1, keepdim=True))[:USERS]
    wanted = (coefficient * (scaled[:, None] - scaled).square().sum(2)).sum()
    assert torch.allclose(smoothness(graph(), start), wanted, atol=1e-10)


def test_layer_weights_sum_to_one():
    for kind in ("mean", "last", "restart"):
        assert float(layer_weights(4, kind).sum()) == pytest.approx(1.0)


def test_same_seed_same_model():
    data = planted_interactions(0, 30, 60, mean=8.0)
    links = UserItemGraph(data.train, 30, 60)
    first, again = (LightGCN(links, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(torch.cat(first()), torch.cat(again()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unchecked(propagate)(graph(), embedding() * torch.nan, layer_weights(1)), "embedding holds"),
        (lambda: unchecked(propagate)(graph(), embedding()[:5], layer_weights(1)), "embedding has shape"),
        (lambda: unchecked(propagate)(graph(), embedding(), torch.empty(0)), "weights is empty"),
        (lambda: unchecked(smoothness)(graph(), embedding()[:5]), "embedding has shape"),
        (lambda: unchecked(layer_weights)(-1), "layers must not be negative"),
        (lambda: unchecked(layer_weights)(2, "max"), "kind 'max' is unknown"),
        (lambda: unchecked(layer_weights)(2, "restart", 0.0), "restart must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
