"""Feed-forward layers: closed forms, and hidden activations that are what the last matrix sees."""

import torch
from torch import nn

from touchstone.nn.activations import FeedForward, SquaredReLU, SwiGLU


def test_squared_relu():
    x = torch.tensor([[-2.0, 0.0, 3.0]])
    assert torch.equal(SquaredReLU()(x), torch.tensor([[0.0, 0.0, 9.0]]))


def test_plain_layer_without_activation_is_a_matrix_product():
    layer, x = FeedForward(4, 7, nn.Identity()), torch.randn(3, 4)
    torch.testing.assert_close(layer(x), x @ layer.up.weight.T @ layer.down.weight.T)


def test_gate_of_ones_gives_silu_of_one_times_up():
    layer, x = SwiGLU(2, 5), torch.ones(1, 2)
    nn.init.constant_(layer.gate.weight, 0.5)
    torch.testing.assert_close(layer.hidden(x), torch.sigmoid(torch.tensor(1.0)) * layer.up(x))
    torch.testing.assert_close(layer(x), layer.down(layer.hidden(x)))
