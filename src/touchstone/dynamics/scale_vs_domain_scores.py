"""Eleven scores of a set of forecasts, for the comparison of scores in `scale_vs_domain`."""

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from touchstone.dynamics.scale_vs_domain import GRANULARITY, Task, valid_steps
from touchstone.metrics.attractors import running_smape, spectral_distance, state_space_divergence

BOUND = 10.0  # standard deviations; what lies beyond or is not finite counts as here
HIGH_IS_GOOD = ("VPT", "R2", "Pearson", "Spearman", "mutual information")


def correlation(a: Float[np.ndarray, "samples"], b: Float[np.ndarray, "samples"]) -> float:
    """Pearson's correlation; 0 if one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-12 * len(a) else 0.0


def mutual_information(a: Float[np.ndarray, "samples"], b: Float[np.ndarray, "samples"], bins: int = 16) -> float:
    """Mutual information of two samples, from a histogram of their ranks.

    Args:
        a: one sample.
        b: the other, of the same length.
        bins: equally filled bins of each, where there are no ties.

    Returns:
        nats; 0 for independent samples up to an estimation bias, and the logarithm of ``bins`` for equal ones.
    """
    cells = [np.minimum((bins * (rankdata(x) - 0.5) / len(x)).astype(int), bins - 1) for x in (a, b)]
    joint = np.bincount(cells[0] * bins + cells[1], minlength=bins**2).reshape(bins, bins) / len(a)
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product[seen])).sum())


def scores(task: Task, forecast: Float[np.ndarray, "starts steps dim"], span: float = 2.0) -> dict[str, float]:
    """Score forecasts from all starts of a task.

    Args:
        task: the data.
        forecast: what was said to follow each start.
        span: Lyapunov times over which errors and correlations are taken. The divergence of the states and the distance
            of the spectra look at the whole horizon.

    Returns:
        the scores by name; ``VPT`` in Lyapunov times and ``VPT periods`` in periods are medians over the starts, the
        correlations and R2 means over the coordinates. Forecasts that leave ten standard deviations are held there.

    Raises:
        ValueError: if the shapes differ.
    """
    steps = valid_steps(task.future, forecast)
    near = max(2, min(round(span * task.lyapunov_time), task.future.shape[1]))
    held = np.clip(np.nan_to_num(forecast, nan=BOUND, posinf=BOUND, neginf=-BOUND), -BOUND, BOUND)
    truth, guess = (x[:, :near].reshape(-1, x.shape[-1]) for x in (task.future, held))
    error = guess - truth
    naive = np.abs(np.diff(task.train, axis=0)).mean()
    pairs = list(zip(truth.T, guess.T, strict=True))
    return {
        "VPT": float(np.median(steps) / task.lyapunov_time),
        "VPT periods": float(np.median(steps) / GRANULARITY),
        "sMAPE": float(running_smape(task.future, forecast)[:, near - 1].mean()),
        "MAE": float(np.abs(error).mean()),
        "RMSE": float(np.sqrt(np.square(error).mean())),
        "MASE": float(np.abs(error).mean() / naive),
        "R2": float(1 - (np.square(error).mean(0) / truth.var(0)).mean()),
        "Pearson": float(np.mean([correlation(a, b) for a, b in pairs])),
        "Spearman": float(np.mean([correlation(rankdata(a), rankdata(b)) for a, b in pairs])),
        "mutual information": float(np.mean([mutual_information(a, b) for a, b in pairs])),
        "D_stsp": state_space_divergence(task.future, held, bins=15),
        "D_H": spectral_distance(task.future, held, smoothing=2.0),
    }
