r"""Other ways to the Laplacian in many dimensions, by PyTorch's own differentiation, for comparison with random jets.

All of them differentiate :math:`u=(1-\lVert x\rVert^2)N(x)` for a stack of tanh networks and return its Laplacian or an
unbiased estimate of it, attached to the parameters. :func:`stochastic_dimensions` is SDGD (Hu et al., 2023,
arXiv:2307.12306), :func:`hutchinson` is HTE (Hu et al., 2023, arXiv:2312.14499).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad, grad

from touchstone.nn.networks import MLP


def solution(network: MLP, points: Float[Tensor, "seeds points dims"]) -> Float[Tensor, "seeds points outputs"]:
    r"""The value :math:`(1-\lVert x\rVert^2)N(x)`, by plain operations."""
    hidden = points
    for weight, bias in network.hidden_layers():
        hidden = torch.tanh(torch.baddbmm(bias, hidden, weight))
    return (1 - points.square().sum(-1, keepdim=True)) * torch.baddbmm(network.biases[-1], hidden, network.weights[-1])


def _slope(value: Tensor, points: Tensor) -> Tensor:
    return grad(value.sum(), points, create_graph=True)[0]


def stochastic_dimensions(
    network: MLP, points: Float[Tensor, "seeds points dims"], axes: Int[Tensor, "seeds directions"]
) -> Float[Tensor, "seeds points 1"]:
    """Second derivatives along random coordinates by backward over backward, all points at once.

    Args:
        network: a stack with one output.
        points: where to evaluate.
        axes: the coordinates of each seed, without repetition.

    Returns:
        the estimate of the Laplacian.
    """
    points = points.detach().requires_grad_()
    slope = _slope(solution(network, points), points)
    total = torch.zeros_like(points[..., :1])
    for column in axes.unbind(1):
        index = column[:, None, None].expand(-1, points.shape[1], 1)
        total = total + _slope(slope.gather(2, index), points).gather(2, index)
    return points.shape[-1] / axes.shape[1] * total


def hessian_trace(network: MLP, points: Float[Tensor, "seeds points dims"]) -> Float[Tensor, "seeds points 1"]:
    """The exact Laplacian, one backward pass over the gradient for each coordinate."""
    every = torch.arange(points.shape[-1]).expand(points.shape[0], -1)
    return stochastic_dimensions(network, points, every)


def hutchinson(
    network: MLP, points: Float[Tensor, "seeds points dims"], vectors: Float[Tensor, "seeds 1 directions dims"]
) -> Float[Tensor, "seeds points 1"]:
    r"""The mean of :math:`v^\top\nabla^2u\,v`, forward mode over the gradient, all vectors in one batch.

    Args:
        network: a stack with one output.
        points: where to evaluate.
        vectors: random vectors with unit covariance.

    Returns:
        the estimate of the Laplacian.
    """
    count = vectors.shape[2]
    repeated = points.repeat(1, count, 1)
    along = vectors[:, 0].repeat_interleave(points.shape[1], 1)
    with forward_ad.dual_level():
        place = forward_ad.make_dual(repeated.requires_grad_(), along)
        bent = forward_ad.unpack_dual(_slope(solution(network, place), place)).tangent
    return (bent * along).sum(-1, keepdim=True).unflatten(1, (count, -1)).mean(1)


def nested_fourth(
    network: MLP, points: Float[Tensor, "seeds points dims"], vectors: Float[Tensor, "seeds 1 directions dims"]
) -> Float[Tensor, "seeds directions points 1"]:
    r"""The contraction :math:`\nabla^4u[v,v,v,v]` by four nested backward passes, all vectors in one batch."""
    count = vectors.shape[2]
    place = points.repeat(1, count, 1).requires_grad_()
    along = vectors[:, 0].repeat_interleave(points.shape[1], 1)
    value = solution(network, place)
    for _ in range(4):
        value = (_slope(value, place) * along).sum(-1, keepdim=True)
    return value.unflatten(1, (count, -1))
