"""What METALIC is measured against: standard subsets that never change, and one network for the whole domain."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from touchstone.pinns.metalic import CONDITIONS, Plays
from touchstone.pinns.metalic_families import Family


def subset(*names: str) -> Float[np.ndarray, " 9"]:
    """A subset of conditions by name.

    Args:
        *names: entries of ``CONDITIONS``.

    Returns:
        nine zeros and ones.

    Raises:
        ValueError: for an unknown name.
    """
    unknown = set(names) - set(CONDITIONS)
    if unknown:
        raise ValueError(f"names holds {', '.join(sorted(unknown))}: choose from {', '.join(CONDITIONS)}")
    return np.array([float(name in names) for name in CONDITIONS])


#: XPINN (Jagtap and Karniadakis, 2020), cPINN (Jagtap, Kharazmi and Karniadakis, 2020), and everything at once
FIXED = {"XPINN": subset("average", "residual jump"), "cPINN": subset("value", "flux"), "all nine": subset(*CONDITIONS)}


class OneDomain(Plays):
    """Plays with one network on the whole domain, of as many parameters as the two together (987 against 1002), on the same points."""

    width, nets = 29, 1


def solve_fixed(
    family: Family,
    parameters: Sequence[float],
    seeds: Sequence[int],
    arms: Float[np.ndarray, "plays 9"],
    steps: int,
    evaluations: int,
    together: int = 20,
    kind: type[Plays] = Plays,
) -> Float[np.ndarray, " plays"]:
    """Train plays whose arms are known beforehand, a few at a time.

    Args:
        family: the equations.
        parameters: one a play.
        seeds: one a play.
        arms: one a play, for both stages.
        steps: of Adam.
        evaluations: of L-BFGS.
        together: plays side by side.
        kind: two networks, or one.

    Returns:
        relative L2 errors.

    Raises:
        ValueError: if ``together`` is below 1.
    """
    if together < 1:
        raise ValueError(f"together is {together}: give at least 1")
    errors = []
    for start in range(0, len(seeds), together):
        part = slice(start, start + together)
        plays = kind(family, parameters[part], seeds[part])
        plays.adam(arms[part], steps)
        plays.lbfgs(arms[part], evaluations)
        errors.append(plays.errors())
    return np.concatenate(errors)
