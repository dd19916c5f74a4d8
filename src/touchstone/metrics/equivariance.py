r"""The part's one measure of how far a function is from being equivariant."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite


def equivariance_error(
    function: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "inputs *shape"],
    elements: Iterable[Tensor],
    act_in: Callable[[Tensor, Tensor], Tensor],
    act_out: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> float:
    r"""Equivariance error: the median over group elements of a relative root-mean-square mismatch.

    .. math:: \mathrm{EE}=\operatorname{median}_g\;
        \frac{\big(\operatorname{mean}_x|f(\rho_{in}(g)x)-\rho_{out}(g)f(x)|^2\big)^{1/2}}
             {\big(\operatorname{mean}_x|f(x)-\operatorname{mean}f|^2\big)^{1/2}}

    Zero means exactly equivariant, about 1.4 means that the two outputs are unrelated.

    Args:
        function: maps a batch of inputs to a batch of outputs.
        inputs: the fixed test inputs, usually 128.
        elements: the fixed group elements, usually 64, in the form that the actions take.
        act_in: ``act_in(element, inputs)`` transforms the inputs.
        act_out: ``act_out(element, outputs)`` transforms the outputs; leave out for invariant functions.

    Returns:
        the error, dimensionless.

    Raises:
        ValueError: if ``inputs`` is empty or not finite, or ``elements`` is empty.
    """
    finite(inputs=inputs)
    elements = list(elements)
    if not elements:
        raise ValueError("elements is empty: give at least one group element")
    with torch.no_grad():
        plain = function(inputs)
        spread = (plain - plain.mean(0)).pow(2).flatten(1).sum(1).mean().sqrt()
        errors = []
        for element in elements:
            wanted = plain if act_out is None else act_out(element, plain)
            gap = (function(act_in(element, inputs)) - wanted).pow(2).flatten(1).sum(1).mean().sqrt()
            errors.append(gap / spread)
    return float(torch.stack(errors).quantile(0.5))
