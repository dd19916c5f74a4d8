"""The pairs are different graphs that colour refinement, and its folklore version, cannot tell apart."""

from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.wl_pairs import folklore_pairs, relabel, wl_pairs


def refinement(adjacency):
    colours = [0] * len(adjacency)
    history = []
    for _ in range(len(adjacency)):
        colours = [
            (colours[i], tuple(sorted(colours[j] for j in np.flatnonzero(row)))) for i, row in enumerate(adjacency)
        ]
        history.append(Counter(colours))
        names = {colour: hash(colour) for colour in colours}
        colours = [names[colour] for colour in colours]
    return history


def folklore(adjacency, rounds=4):
    nodes = range(len(adjacency))
    colours = {(i, j): (i == j, int(adjacency[i, j])) for i in nodes for j in nodes}
    for _ in range(rounds):
        colours = {
            (i, j): hash((colours[i, j], tuple(sorted(Counter((colours[i, k], colours[k, j]) for k in nodes).items()))))
            for i in nodes for j in nodes
        }  # fmt: skip
    return Counter(colours.values())


def test_pairs_differ_but_refinement_agrees():
    pairs = wl_pairs()
    assert len(pairs) == 8
    for name, (one, two) in pairs.items():
        assert one.shape == two.shape and torch.equal(one, one.T) and one.diagonal().abs().sum() == 0, name
        assert not nx.is_isomorphic(nx.from_numpy_array(one.numpy()), nx.from_numpy_array(two.numpy())), name
        assert refinement(one.numpy()) == refinement(two.numpy()), name


def test_folklore_separates_cycles_but_not_the_strongly_regular_pair():
    one, two = wl_pairs(0)["C6 / 2 C3"]
    assert folklore(one.numpy()) != folklore(two.numpy())
    ((one, two),) = folklore_pairs().values()
    assert folklore(one.numpy()) == folklore(two.numpy())
    assert not nx.is_isomorphic(nx.from_numpy_array(one.numpy()), nx.from_numpy_array(two.numpy()))
    for a in (one, two):  # strongly regular (16, 6, 2, 2): A^2 = 6 I + 2 A + 2 (J - I - A)
        assert a.shape == (16, 16) and torch.equal(a @ a, 4 * torch.eye(16, dtype=a.dtype) + 2 * torch.ones_like(a))


def test_relabelled_copies_are_isomorphic_and_different():
    adjacency = wl_pairs(0)["decalin / bicyclopentyl"][0]
    copies = relabel(adjacency, 5, torch.Generator().manual_seed(0))
    assert copies.shape == (5, 10, 10) and not torch.equal(copies[0], adjacency)
    for copy in copies:
        assert nx.is_isomorphic(nx.from_numpy_array(copy.numpy()), nx.from_numpy_array(adjacency.numpy()))


def test_bad_arguments_are_named():
    call, generator = unchecked(relabel), torch.Generator()
    for bad in (torch.full((2, 2), np.nan), torch.ones(2, 3), torch.ones(0, 0)):
        with pytest.raises(ValueError, match="adjacency"):
            call(bad, 1, generator)
    with pytest.raises(ValueError, match="copies"):
        call(torch.ones(2, 2), 0, generator)
    with pytest.raises(ValueError, match="regular"):
        wl_pairs(-1)
