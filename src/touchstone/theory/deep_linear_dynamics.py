r"""Exact learning curves of deep linear networks.

A network without nonlinearities, :math:`\hat y=W_D\cdots W_1x`, still learns nonlinearly: its loss is a polynomial of
degree :math:`2D` in the weights. With white inputs and weights aligned to the singular vectors of the input-output
correlation :math:`\Sigma=E[yx^T]=U\,\mathrm{diag}(s)V^T`, gradient flow splits into one scalar equation a mode,

.. math:: \tau\dot u_\alpha = D\,u_\alpha^{2-2/D}(s_\alpha-u_\alpha),

where :math:`u_\alpha=U_\alpha^TW_D\cdots W_1V_\alpha` is the strength of mode :math:`\alpha`. One matrix gives an
exponential, two matrices a sigmoid whose time scale is :math:`1/s_\alpha`: plateaus, then sudden drops.

Source: A. M. Saxe, J. L. McClelland, S. Ganguli (2013), arXiv:1312.6120.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.nn.orthogonal import haar_orthogonal


def correlation_modes(
    inputs: Float[Tensor, "samples inputs"], targets: Float[Tensor, "samples outputs"]
) -> tuple[Float[Tensor, "outputs modes"], Float[Tensor, "modes"], Float[Tensor, "inputs modes"]]:
    r"""Singular modes of the input-output correlation :math:`\Sigma=E[yx^T]=U\,\mathrm{diag}(s)V^T`.

    Args:
        inputs: white inputs, :math:`E[xx^T]=I` over the samples.
        targets: what the network shall output.

    Returns:
        ``U``, ``s`` (largest first) and ``V``; one column of ``U`` and ``V`` a mode.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape, or if ``inputs`` is not white.
    """
    sizes = shaped("inputs", inputs, ("samples", "inputs"))
    shaped("targets", targets, (sizes["samples"], "outputs"))
    finite(inputs=inputs, targets=targets)
    covariance = inputs.mT @ inputs / sizes["samples"]
    gap = (covariance - torch.eye(sizes["inputs"], dtype=inputs.dtype)).abs().max()
    if gap > 1e-3:
        raise ValueError(f"inputs is not white: its second moment differs from the identity by {gap:.2g}; whiten it")
    u, s, v_transposed = torch.linalg.svd(targets.mT @ inputs / sizes["samples"], full_matrices=False)
    return u, s, v_transposed.mT


def _growing(start: Tensor) -> None:
    if (start <= 0).any():
        raise ValueError("start must be positive: a mode of strength 0 never grows")


def sigmoid_mode(
    time: Float[Tensor, "times"], s: Float[Tensor, "modes"], start: Float[Tensor, "modes"], tau: float = 1.0
) -> Float[Tensor, "times modes"]:
    r"""Strength of each mode of a two-layer network, the closed form of :math:`\tau\dot u=2u(s-u)`.

    .. math:: u(t)=\frac{s\,e^{2st/\tau}}{e^{2st/\tau}-1+s/u_0}

    Args:
        time: times, in the units of ``tau``.
        s: singular values of the correlation.
        start: mode strengths :math:`u_0>0` at time 0.
        tau: inverse learning rate.

    Returns:
        :math:`u_\alpha(t)`, one row a time.

    Raises:
        ValueError: if an argument is empty or not finite, or ``start`` is not positive.
    """
    finite(time=time, s=s, start=start)
    _growing(start)
    return s / (1 + (s / start - 1) * torch.exp(-2 * s * time.unsqueeze(-1) / tau))  # divided through by e^{2st}


def rise_time(
    s: Float[Tensor, "modes"], start: Float[Tensor, "modes"], end: Float[Tensor, "modes"], tau: float = 1.0
) -> Float[Tensor, "modes"]:
    r"""Time in which a mode of a two-layer network grows from ``start`` to ``end``.

    .. math:: t=\frac{\tau}{2s}\ln\frac{u_f(s-u_0)}{u_0(s-u_f)}

    Args:
        s: singular values of the correlation.
        start: mode strengths :math:`u_0` at the beginning, between 0 and ``s``.
        end: mode strengths :math:`u_f` at the end, between 0 and ``s``.
        tau: inverse learning rate.

    Returns:
        the time, in the units of ``tau``.

    Raises:
        ValueError: if an argument is empty or not finite, or a strength is not strictly between 0 and ``s``.
    """
    finite(s=s, start=start, end=end)
    for name, value in (("start", start), ("end", end)):
        if ((value <= 0) | (value >= s)).any():
            raise ValueError(f"{name} must lie strictly between 0 and s")
    return tau / (2 * s) * torch.log(end * (s - start) / (start * (s - end)))


def deep_mode(
    time: Float[Tensor, "times"], s: Float[Tensor, "modes"], start: Float[Tensor, "modes"], depth: int, tau: float = 1.0
) -> Float[Tensor, "times modes"]:
    r"""Strength of each mode of a network of any depth, integrating :math:`\tau\dot u=D\,u^{2-2/D}(s-u)`.

    Args:
        time: increasing times from the start at time ``time[0]``, in the units of ``tau``.
        s: singular values of the correlation.
        start: mode strengths at ``time[0]``, positive.
        depth: number :math:`D` of weight matrices; 1 is linear regression.
        tau: inverse learning rate.

    Returns:
        :math:`u_\alpha(t)`, one row a time.

    Raises:
        ValueError: if an argument is empty or not finite, ``start`` is not positive or ``depth`` is below 1.
    """
    finite(time=time, s=s, start=start)
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    _growing(start)
    target, moments = s.double().numpy(), time.double().numpy()

    def speed(_, u):
        return depth * u.clip(min=0) ** (2 - 2 / depth) * (target - u) / tau

    span = (moments[0], moments[-1])
    path = solve_ivp(speed, span, start.double().numpy(), method="DOP853", t_eval=moments, rtol=1e-11, atol=1e-13)
    return torch.as_tensor(path.y.T, dtype=s.dtype)


def aligned_weights(
    u: Float[Tensor, "outputs modes"],
    v: Float[Tensor, "inputs modes"],
    start: Float[Tensor, "modes"],
    hidden: int,
    generator: torch.Generator | None = None,
) -> list[Float[Tensor, "_ _"]]:
    r"""Two balanced weight matrices whose product has the singular vectors of the task.

    :math:`W_1=R\,\mathrm{diag}(\sqrt{u_0})V^T` and :math:`W_2=U\,\mathrm{diag}(\sqrt{u_0})R^T` with random orthonormal
    columns :math:`R`: the start from which the modes never interact.

    Args:
        u: left singular vectors of the correlation.
        v: right singular vectors of the correlation.
        start: mode strengths :math:`u_0\ge0`.
        hidden: hidden width, at least the number of modes.
        generator: source of randomness for :math:`R`.

    Returns:
        ``[W1, W2]``.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape, or ``hidden`` is too small.
    """
    modes = shaped("u", u, ("outputs", "modes"))["modes"]
    shaped("v", v, ("inputs", modes))
    shaped("start", start, (modes,))
    finite(u=u, v=v, start=start)
    if hidden < modes:
        raise ValueError(f"hidden must be at least the number of modes, {modes}, got {hidden}")
    rotation = haar_orthogonal(hidden, modes, generator=generator, dtype=u.dtype)
    return [rotation * start.sqrt() @ v.mT, u * start.sqrt() @ rotation.mT]


def gradients(
    weights: Sequence[Float[Tensor, "*runs _ _"]], target: Float[Tensor, "*runs outputs inputs"]
) -> tuple[list[Float[Tensor, "*runs _ _"]], Float[Tensor, "*runs outputs inputs"]]:
    r"""Gradients of :math:`\frac12\|\Sigma-W_D\cdots W_1\|_F^2`, the squared error on white inputs, by hand.

    Args:
        weights: :math:`W_1,\dots,W_D`, first layer first; leading dimensions are independent runs.
        target: the correlation :math:`\Sigma`.

    Returns:
        one gradient a weight matrix, and the end-to-end map :math:`W_D\cdots W_1`.
    """
    below = [weights[0]]  # below[l] = W_{l+1} ... W_1
    for weight in weights[1:]:
        below.append(weight @ below[-1])
    delta, found = below[-1] - target, []
    for layer in range(len(weights) - 1, 0, -1):
        found.append(delta @ below[layer - 1].mT)
        delta = weights[layer].mT @ delta
    return [delta, *reversed(found)], below[-1]


def gradient_descent(
    weights: Sequence[Float[Tensor, "runs _ _"]],
    target: Float[Tensor, "runs outputs inputs"],
    rate: Float[Tensor, "runs"],
    steps: int,
) -> Iterator[Float[Tensor, "runs outputs inputs"]]:
    r"""Full-batch gradient descent of many independent runs at once, yielding the end-to-end map before every step.

    Args:
        weights: :math:`W_1,\dots,W_D`, one leading entry a run; they are not changed.
        target: the correlation :math:`\Sigma` of each run.
        rate: step size of each run; ``rate * step`` is the time :math:`t/\tau` of the gradient flow.
        steps: number of maps to yield.

    Yields:
        the map :math:`W_D\cdots W_1` after 0, 1, 2, ... steps.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape.
    """
    if len(weights) == 0:
        raise ValueError("weights is empty: give at least one matrix")
    runs = shaped("target", target, ("runs", "outputs", "inputs"))["runs"]
    shaped("rate", rate, (runs,))
    finite(target=target, rate=rate, **{f"weights[{layer}]": weight for layer, weight in enumerate(weights)})
    weights, rate = list(weights), rate[:, None, None]
    for _ in range(steps):
        slopes, product = gradients(weights, target)
        yield product
        weights = [weight - rate * slope for weight, slope in zip(weights, slopes, strict=True)]


def mode_strengths(
    product: Float[Tensor, "*runs outputs inputs"], u: Float[Tensor, "outputs modes"], v: Float[Tensor, "inputs modes"]
) -> Float[Tensor, "*runs modes"]:
    r"""Strengths :math:`u_\alpha=U_\alpha^TWV_\alpha` of the task's modes in an end-to-end map.

    Args:
        product: end-to-end maps :math:`W`.
        u: left singular vectors of the correlation.
        v: right singular vectors of the correlation.

    Returns:
        one strength a mode.
    """
    return torch.einsum("om,...oi,im->...m", u, product, v)
