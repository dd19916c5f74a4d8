r"""Items that share features along a tree: the smallest data set with structure at several scales."""

import torch
from jaxtyping import Float
from torch import Tensor


def binary_tree(
    levels: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "items items"], Float[Tensor, "items nodes"]]:
    r"""The leaves of a full binary tree as items, described by the nodes above them.

    Item :math:`i` is the one-hot input :math:`\sqrt{N}e_i`, so that the input covariance over the :math:`N` items is
    the identity. Feature :math:`j` is 1 if item :math:`i` lies below node :math:`j` (the root is above every item, a
    leaf above itself only). The input-output correlation :math:`E[yx^T]` then has the singular values
    :math:`\sqrt{(2^{k}-1)/N}`, :math:`k=1\dots` ``levels + 1``: the coarser a distinction, the larger its value.

    Args:
        levels: number of splits between the root and a leaf; there are ``2 ** levels`` items.
        dtype: floating type of the result.

    Returns:
        ``inputs`` and ``features``, one row an item; nodes are ordered from the root downwards.

    Raises:
        ValueError: if ``levels`` is not positive.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    items = 2**levels
    leaves = torch.arange(items)
    features = [
        (leaves // 2 ** (levels - level) == node).to(dtype) for level in range(levels + 1) for node in range(2**level)
    ]
    return items**0.5 * torch.eye(items, dtype=dtype), torch.stack(features, dim=1)
