"""The shared loop: its loss, its negatives, its stopping, and that it learns."""

import pytest
import torch
from torch.nn import functional

from tests.helpers import unchecked
from touchstone.data.interactions import planted_interactions
from touchstone.graphs.bipartite import UserItemGraph
from touchstone.graphs.lightgcn import LightGCN
from touchstone.graphs.training import Training, UnmetItems, bpr_objective, evaluate, train

torch.set_num_threads(1)
DATA = planted_interactions(0, 60, 80, mean=12.0)
SETTINGS = {"learning_rate": 5e-3, "batch": 256, "epochs": 30, "seed": 0, "validate_every": 3}


def model(layers=2):
    graph = UserItemGraph(DATA.train, DATA.users, DATA.items)
    return LightGCN(graph, 16, layers, generator=torch.Generator().manual_seed(0))


def test_negatives_are_unmet_and_reach_every_unmet_item():
    draw, met = UnmetItems(DATA), DATA.mask("train")
    user = torch.full((4000,), 7)
    item = draw(user, torch.Generator().manual_seed(0))
    assert not bool(met[user, item].any())
    assert len(item.unique()) == DATA.items - int(met[7].sum())


def test_objective_is_the_pairwise_loss():
    network, pairs = model(), DATA.train[:10]
    loss, plain = bpr_objective(DATA, 0.5)(network, pairs, torch.Generator().manual_seed(1))
    unmet = UnmetItems(DATA)(pairs[:, 0], torch.Generator().manual_seed(1))
    users, items = network()
    start, total, penalty = network.embedding, 0.0, 0.0
    for (user, item), other in zip(pairs.tolist(), unmet.tolist(), strict=True):
        total -= functional.logsigmoid(users[user] @ items[item] - users[user] @ items[other]) / 10
        rows = start[[user, 60 + item, 60 + other]]
        penalty += rows.square().sum() / 10
    assert float(plain) == pytest.approx(total.item(), abs=1e-6)
    assert loss.item() == pytest.approx((total + 0.5 * penalty).item(), abs=1e-6)


def test_training_learns_and_is_repeatable():
    runs = [train(model(), DATA, bpr_objective(DATA, 1e-3), **SETTINGS) for _ in range(2)]
    assert torch.equal(runs[0].users, runs[1].users)
    assert runs[0].curve[-1]["loss"] < runs[0].curve[0]["loss"] < 0.7
    assert runs[0].best == max(entry["validation"] for entry in runs[0].curve)
    users, items = model()()
    assert runs[0].score(DATA).ndcg > 1.5 * evaluate((users @ items.T).detach(), DATA).ndcg


def test_patience_stops_early_and_test_is_only_watched():
    patient = train(model(), DATA, bpr_objective(DATA, 0.0), **SETTINGS | {"epochs": 300}, patience=3, watch_test=True)
    assert patient.updates < 300 * -(-len(DATA.train) // 256)
    values = [entry["validation"] for entry in patient.curve]
    assert max(values[:-3]) == patient.best and "test" in patient.curve[0]


def test_validation_masks_training_items_only():
    # The oracle puts held-out items high; masking the wrong split would be an error of the metric.
    both = [evaluate(DATA.oracle, DATA, split).ndcg for split in ("validation", "test")]
    assert all(value > 0.05 for value in both)
    with pytest.raises(ValueError, match="split must be"):
        evaluate(DATA.oracle, DATA, "train")
    with pytest.raises(ValueError, match="scores has shape"):
        unchecked(evaluate)(DATA.oracle[:3], DATA)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="penalty"):
        bpr_objective(DATA, -1.0)
    with pytest.raises(ValueError, match="epochs must be positive"):
        train(model(), DATA, bpr_objective(DATA, 0.0), **SETTINGS | {"epochs": 0})
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        train(model(), DATA, bpr_objective(DATA, 0.0), **SETTINGS | {"learning_rate": float("nan")})
    with pytest.raises(ValueError, match="no finite validated"):
        Training().score(DATA)
