r"""Singular values of the input-output Jacobian of a network."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped


def jacobian_singular_values(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "points inputs"]
) -> Float[Tensor, "points values"]:
    r"""Singular values of :math:`\partial f/\partial x` at each point, largest first.

    Args:
        function: maps one input vector ``(inputs,)`` to one output vector ``(outputs,)``; it must be traceable by
            ``torch.func``.
        points: where to linearise.

    Returns:
        the ``min(inputs, outputs)`` singular values at every point.

    Raises:
        ValueError: if ``points`` is empty, not finite or not two-dimensional.
    """
    shaped("points", points, ("points", "inputs"))
    finite(points=points)
    return torch.linalg.svdvals(torch.func.vmap(torch.func.jacfwd(function))(points))


def share_within(values: Float[Tensor, "*batch values"], low: float, high: float) -> Float[Tensor, "*batch"]:
    r"""Share of singular values that lie in :math:`[\mathrm{low},\mathrm{high}]`: 1 for a near-isometry.

    Args:
        values: singular values.
        low: lower end of the band, at least 0.
        high: upper end of the band, above ``low``.

    Returns:
        the share over the last axis, between 0 and 1.

    Raises:
        ValueError: if ``values`` is empty or not finite, or the band is empty.
    """
    finite(values=values)
    if not 0 <= low < high:
        raise ValueError(f"low and high must satisfy 0 <= low < high, got low={low}, high={high}")
    return ((values >= low) & (values <= high)).to(values.dtype).mean(-1)
