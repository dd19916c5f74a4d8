"""The transformer sees no future, its positions are relative, and models of one seed share what they can."""

import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.nn.activations import FeedForward, SwiGLU
from touchstone.nn.transformer import CausalAttention, Transformer, rotate


def gelu():
    return FeedForward(64, 256, nn.GELU())


def test_a_later_symbol_changes_no_earlier_score():
    model = Transformer(11, gelu)
    numbers = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    changed = numbers.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 11
    before, after = model(numbers), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6:] - after[:, 6:]).abs().amax(-1).min() > 1e-3


def test_rotary_products_depend_on_distance_only():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    products = rotate(query.expand(12, 8)) @ rotate(key.expand(12, 8)).T
    for shift in (-3, 0, 5):
        diagonal = products.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (products.diagonal(3)[0] - products.diagonal(-3)[0]).abs() > 1e-3


def test_rotation_turns_the_first_pair_by_one_radian_a_token():
    turned = rotate(torch.tensor([[1.0, 0.0]]).expand(3, 2))
    angle = torch.arange(3.0)
    torch.testing.assert_close(turned, torch.stack((angle.cos(), angle.sin()), -1))


def test_models_of_one_seed_share_all_but_the_feed_forward_layers():
    one = dict(Transformer(11, gelu, seed=5).named_parameters())
    other = dict(Transformer(11, lambda: SwiGLU(64, 171), seed=5).named_parameters())
    for name in one.keys() & other.keys():
        if "feed_forward." not in name:
            assert torch.equal(one[name], other[name]), name
    assert not torch.equal(one["embedding.weight"], Transformer(11, gelu, seed=6).embedding.weight)


def test_scores_at_the_start_are_of_order_one():
    numbers = torch.randint(96, (4, 64), generator=torch.Generator().manual_seed(0))
    assert 0.5 < Transformer(96, gelu)(numbers).std().item() < 2


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: unchecked(rotate)(torch.zeros(2, 3)), "x"),
        (lambda: CausalAttention(10, 3), "heads"),
        (lambda: unchecked(Transformer.forward)(Transformer(5, gelu), torch.zeros(4, dtype=torch.long)), "numbers"),
        (lambda: Transformer(5, gelu)(torch.zeros(0, 4, dtype=torch.long)), "numbers"),
        (lambda: Transformer(5, gelu)(torch.full((1, 4), 5)), "numbers"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
