r"""Neural ordinary differential equations: gradients of an ODE's solution from a second ODE, solved backwards.

A network gives the derivative of a hidden state, :math:`\dot z=f_\theta(t,z)`. For a loss of the states at times
:math:`t_0<\dots<t_n` the adjoint :math:`a(t)=\partial L/\partial z(t)` obeys

.. math:: \dot a=-a^\top\frac{\partial f}{\partial z}, \qquad
   \frac{dL}{d\theta}=-\int_{t_n}^{t_0}a^\top\frac{\partial f}{\partial\theta}\,dt ,

and jumps by :math:`\partial L/\partial z(t_i)` at every :math:`t_i`. The backward pass integrates
:math:`[z,a,g_\theta]` from one requested time to the one before it, so that nothing between them needs to be kept.

Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, 2018, arXiv:1806.07366, equations 3 to 5.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from touchstone.dynamics.odeint import RK4, Count, Dopri5, Field, odeint


def augmented(field: Field, parameters: Sequence[Tensor], shape: torch.Size) -> Field:
    r"""The field of the backward pass: the rates of :math:`[z, a, g_\theta]`, flattened into one vector.

    Args:
        field: the network, from time and state.
        parameters: what it is differentiated by.
        shape: of the state.

    Returns:
        the field; every call of it is one call of the network and one vector-Jacobian product.
    """
    size = shape.numel()

    def rates(time: float, joint: Tensor) -> Tensor:
        with torch.enable_grad():  # a graph of one evaluation, dropped at once
            state = joint[:size].view(shape).detach().requires_grad_()
            rate = field(time, state)
            pull = -joint[size : 2 * size].view(shape)  # -a, for da/dt as for dg/dt
            products = torch.autograd.grad(rate, (state, *parameters), pull, allow_unused=True, materialize_grads=True)
        return torch.cat([rate.detach().flatten(), *(product.flatten() for product in products)])

    return rates


class Adjoint(torch.autograd.Function):
    """A solve whose gradient is another solve; what is kept in between are the returned states."""

    @staticmethod
    def forward(ctx, field, times, solver, back, count, start, *parameters):
        """Solve, and keep the returned states."""
        states = odeint(field, start, times, solver, count)  # without a graph: autograd is off in here
        ctx.save_for_backward(states, times, *parameters)
        ctx.field, ctx.back, ctx.count = field, back, count
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        """Solve the augmented equation backwards, from one requested time to the one before it."""
        states, times, *parameters = ctx.saved_tensors
        shape, size = states.shape[1:], states[0].numel()
        back, cost = ctx.back, Count()
        if isinstance(back, Dopri5):
            sizes = [size, size, *([sum(p.numel() for p in parameters)] if parameters else [])]
            back = Dopri5(back.rtol, back.atol, sizes, back.most)
        rates = augmented(ctx.field, parameters, shape)
        joint = states.new_zeros(2 * size + sum(p.numel() for p in parameters))
        joint[size : 2 * size] = upstream[-1].flatten()
        for index in range(len(times) - 1, 0, -1):
            joint[:size] = states[index].flatten()  # the forward pass's state, not the one integrated back to here
            joint = odeint(rates, joint, times[[index, index - 1]], back, cost)[-1].clone()
            joint[size : 2 * size] += upstream[index - 1].flatten()
        ctx.count.backward += cost.forward
        gradients = joint[2 * size :].split([p.numel() for p in parameters]) if parameters else ()
        shaped = [gradient.view_as(p) for gradient, p in zip(gradients, parameters, strict=True)]
        return None, None, None, None, None, joint[size : 2 * size].view(shape), *shaped


def odeint_adjoint(
    field: nn.Module,
    start: Float[Tensor, "*state"],
    times: Float[Tensor, "times"],
    solver: Dopri5 | RK4 = Dopri5(),  # noqa: B008  (immutable)
    back: Dopri5 | RK4 | None = None,
    count: Count | None = None,
) -> Float[Tensor, "times *state"]:
    """States at requested times, with gradients by the adjoint; the arguments are those of ``odeint`` where not said.

    Args:
        field: a module, called with the time (a float) and the state. Gradients go to its parameters and to ``start``;
            whatever else it closes over counts as a constant.
        start: state at the first of the times.
        times: increasing or decreasing.
        solver: of the forward pass.
        back: of the backward pass; like ``solver`` by default. Its error control holds the states, the adjoint and the
            gradient of the parameters each to the tolerance.
        count: is increased by the evaluations of both passes, once they have run.

    Returns:
        the states, the first of which is ``start``. Differentiable once.

    Raises:
        ValueError: if an argument is empty, not finite or not monotone, or float32 meets a tolerance below 1e-5.
        FloatingPointError: if a step size underflows, or too many steps are needed, in either pass.
    """
    parameters = [parameter for parameter in field.parameters() if parameter.requires_grad]
    count = Count() if count is None else count
    return Adjoint.apply(field, times, solver, solver if back is None else back, count, start, *parameters)


class ODEBlock(nn.Module):
    """A layer of continuous depth: the state at time 1 of an ODE that starts at the input at time 0.

    Args:
        field: a module of time and state, or any network that takes both.
        solver: of both passes; may be changed after training.
        adjoint: whether gradients come from the adjoint or by back-propagation through the solver's steps.
    """

    def __init__(self, field: nn.Module, solver: Dopri5 | RK4, adjoint: bool = True):
        super().__init__()
        self.field, self.solver, self.adjoint = field, solver, adjoint
        self.count = Count()

    def forward(self, inputs: Float[Tensor, "*state"]) -> Float[Tensor, "*state"]:
        """The state at time 1; evaluations are added to ``count``."""
        times = inputs.new_tensor([0.0, 1.0])
        solve = odeint_adjoint if self.adjoint else odeint
        return solve(self.field, inputs, times, self.solver, count=self.count)[-1]
