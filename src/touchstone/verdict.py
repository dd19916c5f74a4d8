"""From numbers and a registered claim to a verdict: one rule, a pure function.

A bound is *met* when its aggregate satisfies the threshold and the 95 % bootstrap interval excludes ``no_effect``.
It *leans* when it points the right way: the interval (or, without one, the aggregate) lies on the right side of
``no_effect``. A claim is **reproduced** when every bound is met, **partly** when every bound is met or leans or at
least one of several is met, and **not reproduced** otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from touchstone.catalogue import Bound, Claim, TouchstoneError

REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_RUN = "reproduced", "partly", "not reproduced", "not run"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_RUN)
RESAMPLES, BOOTSTRAP_SEED = 10_000, 20_220

_AGGREGATES = {"median": np.median, "mean": np.mean, "min": np.min, "max": np.max, "share": np.mean}


@dataclass(frozen=True)
class BoundResult:
    """What one bound's values came to."""

    measure: str
    values: list[float]
    aggregate: float
    interval: list[float] | None
    met: bool
    leans: bool


@dataclass(frozen=True)
class ClaimResult:
    """The verdict on a claim, with what each bound came to."""

    id: str
    verdict: str
    bounds: list[BoundResult]


def _scored(values: np.ndarray, bound: Bound) -> np.ndarray:
    """Values as they count: a NaN is the worst value there is, and a share counts what is true."""
    if bound.aggregate == "share":
        return np.where(np.isnan(values), 0.0, (values != 0).astype(float))
    worst = -np.inf if bound.at_least is not None else np.inf
    return np.where(np.isnan(values), worst, values)


def _bootstrap(scored: np.ndarray, aggregate: str) -> list[float] | None:
    """95 % percentile interval of the aggregate over resampled values; none for a single value."""
    if len(scored) < 2:
        return None
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(scored), size=(RESAMPLES, len(scored)))
    with np.errstate(invalid="ignore"):
        resampled = _AGGREGATES[aggregate](scored[draws], axis=1)
    # quantiles that are attained values, so that infinities stay infinities instead of turning into NaN
    return [float(np.quantile(resampled, q, method=m)) for q, m in ((0.025, "lower"), (0.975, "higher"))]


def judge_bound(bound: Bound, values: Sequence[float | int]) -> BoundResult:
    """Judge one bound.

    Args:
        bound: the registered bound.
        values: one value a seed, draw or repetition; NaN where a run failed.

    Returns:
        aggregate, interval (None for one value), and whether the bound is met and leans.

    Raises:
        TouchstoneError: when there are no values or they are not numbers.
    """
    try:
        array = np.asarray(values, dtype=float).ravel()
    except (TypeError, ValueError):
        raise TouchstoneError(f"measure '{bound.measure}': values are not numbers: {values!r}") from None
    if array.size == 0:
        raise TouchstoneError(f"measure '{bound.measure}': no values; deliver one a seed or draw")
    scored = _scored(array, bound)
    with np.errstate(invalid="ignore"):
        aggregate = float(_AGGREGATES[bound.aggregate](scored))
    interval = _bootstrap(scored, bound.aggregate)
    at_least = bound.at_least is not None
    satisfied = aggregate >= bound.at_least if at_least else aggregate <= bound.at_most
    if bound.no_effect is None:
        met = leans = bool(satisfied)
    else:
        near_end = (interval[0] if at_least else interval[1]) if interval else aggregate
        right_side = near_end > bound.no_effect if at_least else near_end < bound.no_effect
        # one value has no interval, and so can never exclude "nothing to see": it leans at most
        met = bool(satisfied and interval is not None and right_side)
        leans = bool(met or right_side)
    return BoundResult(bound.measure, [float(v) for v in array], aggregate, interval, met, leans)


def judge(claim: Claim, values: Mapping[str, Sequence[float | int]]) -> ClaimResult:
    """Judge a claim.

    Args:
        claim: the registered claim.
        values: for every measure that the claim's bounds name, its values.

    Returns:
        the verdict and its bounds.

    Raises:
        TouchstoneError: when a measure is missing, or one is given that no bound names.
    """
    named = [bound.measure for bound in claim.bounds]
    missing, surplus = [m for m in named if m not in values], [m for m in values if m not in named]
    if missing or surplus:
        raise TouchstoneError(
            f"claim '{claim.id}' is registered with measures {', '.join(named)}; "
            + (f"missing: {', '.join(missing)}" if missing else f"not registered: {', '.join(surplus)}")
        )
    bounds = [judge_bound(bound, values[bound.measure]) for bound in claim.bounds]
    if all(bound.met for bound in bounds):
        verdict = REPRODUCED
    elif all(bound.met or bound.leans for bound in bounds) or (len(bounds) > 1 and any(bound.met for bound in bounds)):
        verdict = PARTLY
    else:
        verdict = NOT_REPRODUCED
    return ClaimResult(claim.id, verdict, bounds)
