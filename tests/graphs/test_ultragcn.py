"""UltraGCN: the limit of message passing, the item weights by brute force, and its loss term by term."""

import pytest
import torch
from torch.nn import functional

from tests.helpers import unchecked
from touchstone.data.interactions import Interactions, planted_interactions
from touchstone.graphs.bipartite import UserItemGraph
from touchstone.graphs.training import evaluate, train
from touchstone.graphs.ultragcn import Embeddings, item_neighbours, limit_weights, ultragcn_objective

torch.set_num_threads(1)
USERS, ITEMS = 9, 11
MET = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.35
MET[:, 0] = True  # item 0 connects everybody
MET[:, 7] = False  # item 7 was never met
MET[0, 1:] = MET.sum(0)[1:] > 0
PAIRS = torch.nonzero(MET)
NONE = torch.empty(0, 2, dtype=torch.int64)
DATA = Interactions(USERS, ITEMS, PAIRS, NONE, NONE)


def degrees():
    return MET.double().sum(1), MET.double().sum(0)


def beta():
    """The weights written out, zero where there is no interaction."""
    user, item = degrees()
    return MET / user[:, None] * torch.sqrt((user[:, None] + 1) / (item + 1))


def model(scale=0.5):
    return Embeddings(USERS, ITEMS, 5, scale=scale, generator=torch.Generator().manual_seed(2))


def test_factors_multiply_to_the_limit_weights():
    user, item = limit_weights(*degrees())
    assert torch.allclose(MET * user[:, None] * item, beta(), atol=1e-12)


def test_root_degree_is_a_fixed_point():
    user, item = degrees()
    direction = torch.tensor([1.0, -3.0, 0.5], dtype=torch.float64)
    a, b = limit_weights(user, item)
    left = (user + 1).sqrt()[:, None] * direction
    right = (MET * a[:, None] * b) @ ((item + 1).sqrt()[:, None] * direction)
    assert torch.allclose(left, right, atol=1e-12)


def test_many_propagations_end_at_the_weights():
    graph = UserItemGraph(PAIRS, USERS, ITEMS, self_loops=True, dtype=torch.float64)
    state = torch.rand(USERS + ITEMS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for _ in range(2000):
        state = graph @ state
    state = state / state[:USERS].abs().max()
    assert torch.allclose(state[:USERS], beta() @ state[USERS:], atol=1e-6)
    assert (
        float((graph @ torch.ones_like(state))[:USERS].sub(beta() @ torch.ones(ITEMS, 2).double()).abs().max()) > 0.01
    )


def test_user_without_items_weighs_nothing():
    user, _ = limit_weights(torch.tensor([0.0, 1.0]), torch.tensor([1.0]))
    assert user.tolist() == pytest.approx([0.0, 2**0.5])


def test_item_weights_by_brute_force():
    together = MET.double().T @ MET.double()
    together.fill_diagonal_(0)
    total = together.sum(1)
    wanted = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    for i in range(ITEMS):
        for j in range(ITEMS):
            if together[i, j] > 0:
                wanted[i, j] = together[i, j] / (total[i] - together[i, i]) * (total[i] / total[j]).sqrt()
    near, weight = item_neighbours(PAIRS, USERS, ITEMS, 4)
    assert torch.allclose(weight.double(), wanted.topk(4, 1).values, atol=1e-6)
    assert torch.allclose(weight.double(), wanted.gather(1, near), atol=1e-6)
    assert not bool((near == torch.arange(ITEMS)[:, None]).any())
    full, _ = item_neighbours(PAIRS, USERS, ITEMS, ITEMS - 1)
    assert not bool((full == torch.arange(ITEMS)[:, None]).any())


def test_without_weights_it_is_the_binary_cross_entropy():
    settings = {
        "positive": (1.0, 0.0),
        "negative": (1.0, 0.0),
        "negative_weight": 1.0,
        "item_weight": 0.0,
        "decay": 0.0,
    }
    network, pairs = model(), PAIRS[:6]
    loss, _ = ultragcn_objective(DATA, **settings, negatives=1)(network, pairs, torch.Generator().manual_seed(4))
    sampled = torch.randint(ITEMS, (6, 1), generator=torch.Generator().manual_seed(4)).squeeze(1)
    users, items = network()
    logits = torch.cat([(users[pairs[:, 0]] * items[j]).sum(1) for j in (pairs[:, 1], sampled)])
    target = torch.cat([torch.ones(6), torch.zeros(6)])
    wanted = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_all_terms_written_out():
    network, pairs = model(), PAIRS[::7]
    objective = ultragcn_objective(
        DATA,
        positive=(0.3, 0.8),
        negative=(0.2, 1.5),
        negative_weight=7.0,
        negatives=3,
        item_weight=2.0,
        neighbours=4,
        decay=0.1,
    )
    loss, logged = objective(network, pairs, torch.Generator().manual_seed(5))
    sampled = torch.randint(ITEMS, (len(pairs), 3), generator=torch.Generator().manual_seed(5))
    near, omega = item_neighbours(PAIRS, USERS, ITEMS, 4)
    (user_degree, item_degree), total = degrees(), 0.0
    users, items = network()
    for (u, i), others in zip(pairs.tolist(), sampled.tolist(), strict=True):
        scale = [float(((user_degree[u] + 1) / (item_degree[j] + 1)).sqrt() / user_degree[u]) for j in range(ITEMS)]
        total -= (0.3 + 0.8 * scale[i]) * functional.logsigmoid(users[u] @ items[i])
        for j in others:
            total -= 7.0 / 3 * (0.2 + 1.5 * scale[j]) * functional.logsigmoid(-users[u] @ items[j])
    assert logged.item() == pytest.approx(total.item() / len(pairs), rel=1e-5)
    for u, i in pairs.tolist():
        for j, weight in zip(near[i].tolist(), omega[i].tolist(), strict=True):
            total -= 2.0 * weight * functional.logsigmoid(users[u] @ items[j])
    total = total + 0.05 * network.embedding.square().sum()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_training_ranks_held_out_items_and_is_repeatable():
    data = planted_interactions(0, 60, 80, mean=12.0)
    objective = ultragcn_objective(data, negatives=20, negative_weight=10.0)
    settings = {"learning_rate": 1e-2, "batch": 256, "seed": 0, "validate_every": 6}
    runs = []
    for epochs in (4, 4, 30):
        network = Embeddings(60, 80, 8, generator=torch.Generator().manual_seed(0))
        runs.append(train(network, data, objective, epochs=epochs, **settings))
    assert torch.equal(runs[0].items, runs[1].items)
    chance = torch.rand(60, 80, generator=torch.Generator().manual_seed(1))
    assert runs[2].score(data).ndcg > 1.3 * evaluate(chance, data).ndcg


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unchecked(limit_weights)(torch.tensor([torch.nan]), torch.ones(2)), "user_degree holds 1 NaN"),
        (lambda: unchecked(limit_weights)(torch.ones(2), torch.ones(0)), "item_degree is empty"),
        (lambda: unchecked(limit_weights)(torch.ones(2, 2), torch.ones(2)), "user_degree has shape"),
        (lambda: unchecked(limit_weights)(torch.ones(2), -torch.ones(2)), "item_degree holds negative"),
        (lambda: unchecked(item_neighbours)(NONE, 3, 4, 2), "pairs is empty"),
        (lambda: unchecked(item_neighbours)(PAIRS, USERS, 4, 2), "pairs must hold"),
        (lambda: unchecked(item_neighbours)(PAIRS, USERS, ITEMS, ITEMS), "neighbours must be"),
        (lambda: unchecked(ultragcn_objective)(DATA, decay=float("nan")), "decay must be finite"),
        (lambda: unchecked(ultragcn_objective)(DATA, positive=(-1.0, 0.0)), "positive must be finite"),
        (lambda: unchecked(ultragcn_objective)(DATA, negatives=0), "negatives must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
