import pytest
import torch

from tests.helpers import unchecked
from touchstone.generative.couplings import Streams, independent, paired, transport_pairs


def test_streams_of_a_seed_do_not_depend_on_company():
    alone, company = Streams([4], 1), Streams([2, 4], 1)
    assert torch.equal(alone.normal(5, 2)[0], company.normal(5, 2)[1])
    assert torch.equal(alone.uniform(5)[0], company.uniform(5)[1])
    assert not torch.equal(Streams([4], 1).normal(5), Streams([4], 2).normal(5))


def test_independent_draws_data_rows_and_fresh_noise():
    data = torch.arange(20.0).reshape(2, 5, 2)
    noise, chosen = independent(Streams([0, 1]), data)(64)
    for seed in range(2):
        assert set(chosen[seed, :, 0].tolist()) == set(data[seed, :, 0].tolist())
    assert noise.shape == (2, 64, 2) and abs(noise.mean()) < 0.3


def test_paired_keeps_partners():
    start = Streams([0, 1]).normal(30, 2)
    first, second = paired(Streams([0, 1], 1), start, -2 * start)(16)
    assert torch.equal(second, -2 * first)


def test_transport_pairs_sort_on_the_line_and_permute():
    """In one dimension optimal transport for the squared distance is the increasing rearrangement."""
    start, end = Streams([0], 1).normal(40, 1), Streams([0], 2).normal(40, 1)
    partners = transport_pairs(start, end, block=40)
    assert torch.equal(partners.sort(dim=1).values, end.sort(dim=1).values)
    assert torch.equal(start.argsort(dim=1), partners.argsort(dim=1))
    halves = transport_pairs(start, end, block=20)
    assert torch.equal(halves[:, :20].sort(dim=1).values, end[:, :20].sort(dim=1).values)


@pytest.mark.parametrize("bad", [torch.full((1, 4, 2), torch.nan), torch.zeros(4, 2), torch.zeros(1, 0, 2)])
def test_bad_input_is_named(bad):
    good = torch.zeros(1, 4, 2)
    with pytest.raises(ValueError, match="data"):
        unchecked(independent)(Streams([0]), bad)
    for function in (unchecked(transport_pairs), lambda a, b: unchecked(paired)(Streams([0]), a, b)):
        with pytest.raises(ValueError, match="start"):
            function(bad, good)
        with pytest.raises(ValueError, match="end"):
            function(good, bad)
