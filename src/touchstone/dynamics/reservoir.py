r"""Echo state network: a fixed random recurrent network whose read-out alone is fitted, by ridge regression.

.. math:: r_t = \tanh(W r_{t-1} + U x_t + b), \qquad x_{t+1} \approx V [r_t, x_t, 1].

Source: H. Jaeger, 2001, "The echo state approach to analysing and training recurrent neural networks".
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass
class EchoStateNetwork:
    """A fitted echo state network.

    Args:
        recurrent: W, fixed.
        inputs: U, fixed.
        bias: b, fixed.
        readout: V, fitted.
    """

    recurrent: Float[np.ndarray, "nodes nodes"]
    inputs: Float[np.ndarray, "nodes dim"]
    bias: Float[np.ndarray, "nodes"]
    readout: Float[np.ndarray, "features dim"]

    def advance(self, nodes: Float[np.ndarray, "runs nodes"], states: Float[np.ndarray, "runs dim"]) -> tuple:
        """One step: the reservoir hears the states, the read-out says the next ones.

        Args:
            nodes: activity of the reservoir.
            states: observed or predicted states.

        Returns:
            new activity, predicted next states.
        """
        nodes = np.tanh(nodes @ self.recurrent.T + states @ self.inputs.T + self.bias)
        return nodes, _features(nodes, states) @ self.readout

    def free_run(self, warmup: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Free runs after a warm-up on observations.

        Args:
            warmup: observations that lead up to the start, which is the last of them.
            steps: number of steps.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if the warm-up is empty or not finite.
        """
        if warmup.size == 0 or not np.isfinite(warmup).all():
            raise ValueError(f"warmup (shape {warmup.shape}) must hold at least one state and finite numbers only")
        nodes = np.zeros((len(warmup), len(self.bias)))
        for observed in warmup.swapaxes(0, 1):
            nodes, states = self.advance(nodes, observed)
        orbit = np.empty((steps, *states.shape))
        for time in range(steps):
            orbit[time] = states
            nodes, states = self.advance(nodes, states)
        return orbit.swapaxes(0, 1)


def _features(nodes: np.ndarray, states: np.ndarray) -> np.ndarray:
    """What the read-out sees."""
    return np.concatenate([nodes, states, np.ones((len(states), 1))], 1)


def fit_echo_state_network(
    series: Float[np.ndarray, "time dim"],
    seed: int,
    nodes: int = 300,
    radius: float = 0.9,
    input_scale: float = 0.5,
    ridge: float = 1e-6,
    washout: int = 100,
) -> EchoStateNetwork:
    """Draw a reservoir and fit its read-out to one-step predictions.

    Args:
        series: standardised observations.
        seed: of the reservoir.
        nodes: size of the reservoir; a tenth of its connections are not zero.
        radius: spectral radius of the recurrent weights.
        input_scale: half-width of the uniform input weights and biases.
        ridge: penalty on the squared read-out weights, for each observation.
        washout: first steps, left out of the fit.

    Returns:
        the fitted network.

    Raises:
        ValueError: if the series is empty, not finite, or not longer than the washout.
    """
    if series.size == 0 or not np.isfinite(series).all():
        raise ValueError(f"series (shape {series.shape}) must hold at least one state and finite numbers only")
    if len(series) < washout + 2:
        raise ValueError(f"series has {len(series)} time steps: give more than washout + 1 = {washout + 1}")
    random = np.random.default_rng(seed)
    recurrent = random.standard_normal((nodes, nodes)) * (random.random((nodes, nodes)) < 0.1)
    recurrent *= radius / np.abs(np.linalg.eigvals(recurrent)).max()
    inputs = random.uniform(-input_scale, input_scale, (nodes, series.shape[1]))
    bias = random.uniform(-input_scale, input_scale, nodes)
    activity, current = np.empty((len(series) - 1, nodes)), np.zeros(nodes)
    for time, drive in enumerate(series[:-1] @ inputs.T + bias):
        current = activity[time] = np.tanh(recurrent @ current + drive)
    features = _features(activity, series[:-1])[washout:]
    gram = features.T @ features + ridge * len(features) * np.eye(features.shape[1])
    readout = np.linalg.solve(gram, features.T @ series[washout + 1 :])
    return EchoStateNetwork(recurrent, inputs, bias, readout)
