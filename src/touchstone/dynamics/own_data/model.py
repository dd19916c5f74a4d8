"""What is fitted to a user's series, and the file that keeps it."""

import codecs
import functools
import importlib
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from touchstone import arena
from touchstone.arena import Budget
from touchstone.catalogue import TouchstoneError
from touchstone.dynamics.baselines import best_memory, fit_dmd, fit_simplex
from touchstone.dynamics.protocol import Series, Simulator, Stepper, embedded

PAST = 200  # states that a simulator hears before a start; methods without memory use the last one only
FORMAT = 1  # of the model file


@dataclass(frozen=True)
class Scale:
    """Between the user's units and the states that methods see: standardised delay vectors, newest first.

    Attributes:
        mean: of each column over the rows that were learned from.
        std: standard deviation of each column over these rows.
        delays: entries of a delay vector, for each column.
        lag: steps between two entries.
    """

    mean: Float[np.ndarray, "columns"]
    std: Float[np.ndarray, "columns"]
    delays: int
    lag: int

    @property
    def lost(self) -> int:
        """Rows at the start of a series for which there is no delay vector."""
        return (self.delays - 1) * self.lag

    def states(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "time dim"]:
        """Delay vectors of a series in the user's units; the first belongs to row ``lost``."""
        windows = embedded((values - self.mean) / self.std, self.lost + 1).reshape(-1, self.lost + 1, len(self.mean))
        return windows[:, :: -self.lag].reshape(len(windows), -1).copy()  # from the newest back

    def values(self, states: Float[np.ndarray, "*runs time dim"]) -> Float[np.ndarray, "*runs time columns"]:
        """The newest entries in the user's units; what is a million standard deviations away is not a number."""
        newest = states[..., : len(self.mean)]
        return np.where(np.abs(newest) < 1e6, newest, np.nan) * self.std + self.mean


@dataclass(frozen=True)
class FittedModel:
    """A model that was fitted to a user's series.

    Attributes:
        about: file, method, seed, columns, time step and sizes.
        scale: from the user's units to the model's states and back.
        simulator: the learned system, in its own states.
        last: last rows of the file, in the user's units.
    """

    about: dict[str, Any]
    scale: Scale
    simulator: Simulator
    last: Float[np.ndarray, "rows columns"]

    def simulate(
        self, steps: int, past: Float[np.ndarray, "rows columns"] | None = None
    ) -> Float[np.ndarray, "steps columns"]:
        """Continue a series.

        Args:
            steps: how many rows to append.
            past: rows up to the start in the user's units; by default the end of the file that was fitted.

        Returns:
            the rows after 1, 2, ... steps, in the user's units; NaN where the model has left all bounds.

        Raises:
            ValueError: if ``steps`` is below 1 or the past has other columns or too few rows.
        """
        past = self.last if past is None else np.asarray(past, dtype=float)
        if steps < 1:
            raise ValueError(f"steps is {steps}: give 1 or more")
        if past.ndim != 2 or past.shape[1] != len(self.scale.mean) or len(past) <= self.scale.lost:
            raise ValueError(
                f"past has shape {past.shape}: give at least {self.scale.lost + 1} rows of the {len(self.scale.mean)} columns"
            )
        return self.scale.values(run_from(self.simulator, self.scale.states(past)[None], steps))[0]


def run_from(
    simulator: Simulator, past: Float[np.ndarray, "runs time dim"], steps: int
) -> Float[np.ndarray, "runs steps dim"]:
    """Runs of a simulator from the last states of several pasts; what leaves all bounds is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(simulator.simulate(past[:, -PAST:], steps), dtype=float)


def methods() -> dict[str, Any]:
    """Everything that ``--method`` takes: the contestants of this part's ring, by name."""
    maps = {"dmd": fit_dmd, "simplex": fit_simplex}
    return arena.entrants("dynamics") | {name: functools.partial(_fit_map, fit) for name, fit in maps.items()}


def _fit_map(fit: Callable, series: Series, budget: Budget, seed: int) -> Stepper:
    """As in the ring, but that a short series has its delays chosen by shorter forecasts."""
    held = len(series.states) // 5
    return fit(series.states, best_memory(fit, series.states, max(1, min(50, held // 2, held - 9))))


def save_model(path: Path, model: FittedModel, series: Series) -> None:
    """Write a model; one that is a map of the data itself is written as the data, from which loading makes it again."""
    scale = model.scale
    torch.save(
        {
            "format": FORMAT,
            "about": model.about,
            "scale": [torch.from_numpy(scale.mean), torch.from_numpy(scale.std), scale.delays, scale.lag],
            "last": torch.from_numpy(model.last.copy()),
            "simulator": None if isinstance(model.simulator, Stepper) else model.simulator,
            "series": torch.from_numpy(series.states.copy()) if isinstance(model.simulator, Stepper) else None,
        },
        path,
        pickle_module=types.SimpleNamespace(__name__="pickle", Pickler=_Pickler),
    )


_ACTIVATIONS = {name: getattr(torch, name) for name in ("relu", "tanh", "sigmoid", "sin")}
_ACTIVATIONS |= {name: getattr(torch.nn.functional, name) for name in ("silu", "gelu", "elu", "softplus")}


def _activation(name: str) -> Callable:
    """What a model file holds in place of a function."""
    return _ACTIVATIONS[name]


class _Pickler(pickle.Pickler):
    """Writes activations by their names, so that a file need not name functions."""

    def reducer_override(self, value: Any) -> Any:
        if callable(value):
            for name, function in _ACTIVATIONS.items():
                if value is function:
                    return _activation, (name,)
        return NotImplemented


_ARRAYS = [
    np._core.multiarray._reconstruct,
    np.ndarray,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    codecs.encode,
]


def _named(path: Path) -> list[Any]:
    """What a model file names: classes of this package, PyTorch's layers and activations. Anything else is refused."""
    found = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
        module, _, attribute = name.rpartition(".")
        if name in {f"{entry.__module__}.{entry.__name__}" for entry in _ARRAYS}:
            continue
        trusted = module.startswith(("touchstone.dynamics.", "touchstone.nn.", "torch.nn.modules."))
        entry = getattr(importlib.import_module(module), attribute, None) if trusted else None
        if not (entry is _activation or isinstance(entry, type) and entry.__module__ == module):
            raise TouchstoneError(f"{path} names {name}, which no model of this command holds: it is not loaded")
        found.append(entry)
    return found


def load_model(folder: str | Path) -> FittedModel:
    """Load what ``touchstone dynamics fit`` wrote.

    Loading runs no code from the file: it may name this package's classes and PyTorch's layers and activations only.

    Args:
        folder: the folder, or the ``model.pt`` in it.

    Returns:
        the model; ``load_model("model").simulate(steps=100)`` continues the series after the end of the file.

    Raises:
        TouchstoneError: if there is no model, or the file is damaged or holds anything else.
    """
    path = Path(folder)
    path = path / "model.pt" if path.is_dir() else path
    if not path.is_file():
        raise TouchstoneError(f"{path} does not exist: `touchstone dynamics fit` writes it")
    try:
        with torch.serialization.safe_globals(_ARRAYS + _named(path)):
            kept = torch.load(path, weights_only=True)
        about, (mean, std, delays, lag) = kept["about"], kept["scale"]
        simulator, last = kept["simulator"], kept["last"].numpy()
    except TouchstoneError:
        raise
    except Exception as error:  # a damaged archive raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TouchstoneError(f"{path} is damaged or no model: {reason}") from None
    if simulator is None:
        series = Series(about["file"], kept["series"].numpy(), about["dt"])
        simulator = methods()[about["method"]](series, Budget(about["seconds"]), about["seed"])
    return FittedModel(about, Scale(mean.numpy(), std.numpy(), delays, lag), simulator, last)
