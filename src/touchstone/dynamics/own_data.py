"""Fit a method of this part to a time series of your own: read and check the table, hold out its end, fit, judge, write.

What was written is used again with ``load_model("model").simulate(steps=100)``, which continues the end of the file in its units.
"""

import codecs
import contextlib
import difflib
import functools
import importlib
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from touchstone import arena, provenance
from touchstone.arena import Budget
from touchstone.catalogue import TouchstoneError
from touchstone.data.trajectory import spectral_period
from touchstone.dynamics.baselines import best_memory, fit_dmd, fit_simplex, persistence
from touchstone.dynamics.protocol import Series, Simulator, Stepper, embedded
from touchstone.metrics import attractors

WINDOW = 65  # fewest states to learn from: a training window of the recurrent reconstructors
PAST = 200  # states that a simulator hears before a start; methods without memory use the last one only
STARTS, LONGEST = 20, 10_000  # forecasts that are judged; most steps of a run
HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
JITTER = 1e-3  # largest departure of a time step from the median one, as a share of it
TIME_NAMES = ("t", "time")
FORMAT = 1  # of the model file


@dataclass(frozen=True)
class Table:
    """A time series as it was read.

    Attributes:
        name: of the file.
        columns: names of the variables.
        values: their values, in the file's units.
        time: the time column, or the numbers of the rows where there is none.
        time_name: name of the time column, ``None`` where there is none.
    """

    name: str
    columns: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]
    time: Float[np.ndarray, "rows"]
    time_name: str | None

    @property
    def dt(self) -> float:
        """Time step, in the units of the time column; 1 where there is none."""
        return float(np.median(np.diff(self.time)))


def read_table(path: Path, time: str | None = None) -> Table:
    """Read a time series: a header line with names, then a row for each time at a constant step.

    A first column without a name is taken for row numbers and left out.

    Args:
        path: a table separated by commas, semicolons or tabs.
        time: name of the time column; by default a column called ``t`` or ``time``, if there is one.

    Returns:
        the variables, and the time column apart.

    Raises:
        TouchstoneError: saying what is wrong with the file, in which column and line.
    """
    if not path.is_file():
        raise TouchstoneError(f"{path} {'is no file' if path.exists() else 'does not exist'}: name a table of numbers")
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        separator = next((sign for sign in ",;\t" if sign in header), ",")
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, skipinitialspace=True, skip_blank_lines=False)
    except (UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        what = "no text" if isinstance(error, UnicodeDecodeError) else str(error).split("C error: ")[-1]
        raise TouchstoneError(f"{path} is not a table: {what.strip()}") from None
    raw = [name.strip().strip('"') for name in header.split(separator)]
    if all(_is_number(name) for name in raw):
        raise TouchstoneError(f"{path} has no header line: its first line must name the columns")
    if twice := [name for name in dict.fromkeys(raw) if raw.count(name) > 1]:
        raise TouchstoneError(f"{path}: more than one column is called '{twice[0]}'")
    if not isinstance(frame.index, pd.RangeIndex):
        raise TouchstoneError(f"{path}: the lines have more fields than the header has names")
    while len(frame) and frame.iloc[-1].isna().all():  # empty lines at the end
        frame = frame.iloc[:-1]
    if raw[0] == "" and len(raw) > 1:
        frame = frame.iloc[:, 1:]  # the row numbers that pandas writes
    names = [str(name).strip() for name in frame.columns]
    frame.columns = names
    if time is not None and time not in names:
        close = difflib.get_close_matches(time, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise TouchstoneError(f"{path} has no time column '{time}': {hint}")
    time = time or next((name for name in names if name.lower() in TIME_NAMES), None)
    numbers = {name: _numbers(path, name, frame[name]) for name in names}
    clock = numbers.pop(time) if time else np.arange(len(frame), dtype=float)
    if not numbers:
        raise TouchstoneError(f"{path} has no variables besides the time column '{time}'")
    table = Table(path.name, tuple(numbers), np.stack(list(numbers.values()), 1), clock, time)
    if time and len(frame) > 1:
        _check_steps(path, table)
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: Path, name: str, column: pd.Series) -> np.ndarray:
    """A column as numbers; line 1 of the file is the header."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    blank = column.isna() | column.str.strip().str.lower().isin(["", "nan"])
    if (text := np.isnan(values) & ~blank.to_numpy()).any():
        first = int(text.argmax())
        raise TouchstoneError(
            f"{path}, column '{name}', line {first + 2}: '{column.iloc[first]}' is not a number; "
            "leave out columns of text, write decimals with a point and times as numbers"
        )
    if (bad := ~np.isfinite(values)).any():
        raise TouchstoneError(
            f"{path}, column '{name}': {bad.sum()} missing, NaN or infinite values, the first in line {bad.argmax() + 2}; "
            "fill them, or cut the file so that none is left"
        )
    return values


def _check_steps(path: Path, table: Table) -> None:
    """Reject a time column whose step is not constant."""
    steps, dt = np.diff(table.time), table.dt
    where = f"{path}, time column '{table.time_name}'"
    if (back := steps <= 0).any():
        raise TouchstoneError(
            f"{where} does not increase in line {back.argmax() + 3}: sort the rows by time, each once"
        )
    if (off := np.abs(steps - dt) > JITTER * dt).any():
        raise TouchstoneError(
            f"{where}: irregular, the step is {dt:g} for the median row but {steps[off.argmax()]:g} before line "
            f"{off.argmax() + 3}; resample to a constant step"
        )


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
        return self.scale.values(_run(self.simulator, self.scale.states(past)[None], steps))[0]


def _run(simulator: Simulator, past: np.ndarray, steps: int) -> np.ndarray:
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


def fit_file(
    path: Path,
    method: str,
    out: Path,
    seconds: float | int = 60.0,
    seed: int = 0,
    tail: float = 0.2,
    time: str | None = None,
    delays: int = 1,
    lag: int | None = None,
) -> dict[str, Any]:
    """Fit a method to the start of a series, forecast its end, and write model, forecast, metrics and figure into a new folder.

    Args:
        path: table with a header line; one column a variable, a row for each time at a constant step.
        method: a contestant of this part's ring.
        out: folder to make: ``model.pt``, ``forecast.csv``, ``metrics.json``, ``figure.png``; it appears whole or not at all.
        seconds: CPU seconds for the fit.
        seed: of everything random.
        tail: share of the rows, at the end, that is held out.
        time: name of the time column; by default a column called ``t`` or ``time``, if there is one.
        delays: entries of a delay vector for each column; 1 for columns that are states.
        lag: rows between two of them; by default a sixth of the dominant period.

    Returns:
        what ``metrics.json`` holds.

    Raises:
        TouchstoneError: for a file, method, folder or number that cannot be used, and a method that declines the series.
        FloatingPointError: when training breaks down.
    """
    known = methods()
    if method not in known:
        close = difflib.get_close_matches(method, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise TouchstoneError(f"unknown method '{method}': {hint}")
    for name, value, fits, wanted in [
        ("--seconds", seconds, 0 < seconds < np.inf, "a number above 0"),
        ("--tail", tail, 0 < tail <= 0.5, "a share above 0 and at most 0.5"),
        ("--delays", delays, delays >= 1, "1 or more"),
        ("--lag", lag, lag is None or lag >= 1, "1 or more"),
        ("--seed", seed, seed >= 0, "0 or more"),
    ]:
        if not fits:
            raise TouchstoneError(f"{name} is {value}: give {wanted}")
    if out.exists() or out.is_symlink():
        raise TouchstoneError(f"{out} exists: name a new folder, or remove that one")
    parent = out.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise TouchstoneError(f"cannot make {out}: {parent} is not a folder that can be written")

    table = read_table(path, time)
    rows, held = len(table.values), max(2, round(tail * len(table.values)))
    learned = table.values[: max(0, rows - held)]
    period = _period(learned)
    lag = lag or max(1, round((period or 0) / 6))
    lost = (delays - 1) * lag
    if len(learned) - lost < WINDOW:
        after = f" and {lost} lost to the delays" if lost else ""
        raise TouchstoneError(
            f"{path} has {rows} rows: with {min(held, rows)} held out{after}, {max(0, len(learned) - lost)} are left, fewer "
            f"than one window of {WINDOW}"
        )
    flat = [
        name
        for name, column in zip(table.columns, learned.T, strict=True)
        if np.ptp(column) <= 1e-12 * abs(column).max()
    ]
    if flat:
        raise TouchstoneError(
            f"{path}: constant in the {len(learned)} rows to learn from: {', '.join(flat)}; leave out such columns"
        )

    scale = Scale(learned.mean(0), learned.std(0), delays, lag)
    states, cut = scale.states(table.values), len(learned) - lost
    provenance.single_thread()
    arena._warm_up()
    series, budget = Series(path.stem, states[:cut], table.dt), Budget(seconds)
    with _progress(budget, method):
        try:
            simulator = known[method](series, budget, seed)
        except ValueError as reason:
            raise TouchstoneError(f"{method} cannot be fitted to {path}: {reason}") from None
    about = {
        "file": table.name,
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "cpu_s": round(budget.spent(), 2),
        "columns": list(table.columns),
        "time": table.time_name,
        "dt": table.dt,
        "period_steps": period,
        "delays": delays,
        "lag": lag,
        "rows_learned": len(learned),
        "rows_held_out": held,
    }
    model = FittedModel(about, scale, simulator, table.values[-(PAST + lost) :])
    forecast = model.simulate(min(held, LONGEST), learned[-(PAST + lost) :])
    metrics = {**about, **judge(simulator, scale, states, cut, table.columns)}
    with _whole_folder(out) as folder:
        _save(folder / "model.pt", model, series)
        _forecast_frame(table, len(learned), forecast).to_csv(folder / "forecast.csv", index=False)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        _draw(folder / "figure.png", table, len(learned), forecast, metrics)
    return metrics


def _period(values: np.ndarray) -> float | None:
    """Dominant period in steps, ``None`` where nothing oscillates."""
    try:
        return float(spectral_period(values[None], 1.0))
    except ValueError:
        return None


@contextlib.contextmanager
def _progress(budget: Budget, name: str) -> Iterator[None]:
    """In a terminal, show how much of the budget is spent; the bar is gone afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    from tqdm import tqdm

    stop = threading.Event()

    def watch() -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} CPU s"
        with tqdm(total=budget.seconds, desc=name, bar_format=form, leave=False, file=sys.stderr) as bar:
            while not stop.wait(0.2):
                bar.n = min(budget.spent(), budget.seconds)
                bar.refresh()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def judge(
    simulator: Simulator, scale: Scale, states: Float[np.ndarray, "time dim"], cut: int, columns: tuple[str, ...]
) -> dict[str, Any]:
    """Forecasts from up to 20 starts in the held-out end, and one run over all of it; persistence beside them.

    Args:
        simulator: learned from the states before ``cut``.
        scale: of the states.
        states: the whole series as the methods see it.
        cut: first state that was held out.
        columns: names of the variables.

    Returns:
        for the model, for persistence and, where it means something, for the last stretch that was learned from ("earlier"):
        ``rmse_std`` (rms error over starts and columns in standard deviations, by horizon in steps), ``rmse`` (the same by
        column in its units), ``valid_prediction_steps`` (median over starts of the steps until the rms error passes 0.4
        standard deviations), ``D_stsp`` (nats, for up to three columns) and ``D_H`` of the run. Not finite is ``None``.
    """
    count = len(scale.mean)
    held = states[cut:, :count][:LONGEST]
    steps = max(1, min(HORIZONS[-1], len(held) // 2))
    starts = np.unique(np.linspace(cut, cut + len(held) - steps, STARTS).astype(int))
    fewest = min(PAST, cut)
    past = np.stack([states[start - fewest : start] for start in starts])
    truth = np.stack([states[start : start + steps, :count] for start in starts])
    horizons = [h for h in HORIZONS if h <= steps]

    def scores(contestant: Simulator) -> dict[str, Any]:
        guess = scale.values(_run(contestant, past, steps))
        error = (guess - scale.values(truth)) / scale.std
        whole = _run(contestant, states[None, cut - fewest : cut], len(held))[..., :count]
        valid = attractors.valid_prediction_time(truth, error + truth, 1.0, 1.0, np.ones(count))
        rmse = {h: np.sqrt((error[:, h - 1] ** 2).mean(0)) for h in horizons}
        return {
            "rmse_std": {str(h): _finite(np.sqrt((value**2).mean())) for h, value in rmse.items()},
            "rmse": {
                name: {str(h): _finite(value[i] * scale.std[i]) for h, value in rmse.items()}
                for i, name in enumerate(columns)
            },
            "valid_prediction_steps": float(np.median(valid)),
            **shape(whole[0]),
        }

    def shape(run: np.ndarray) -> dict[str, Any]:
        run = np.where(np.abs(run) < 1e6, run, np.nan)
        smoothing = max(1.0, len(held) / 100)  # 20 bins for 2000 states, as the ring's judge has it
        with np.errstate(divide="ignore", invalid="ignore"):  # a column that stands still in the held-out end
            return {
                "D_stsp": _finite(attractors.state_space_divergence(held, run)) if count <= 3 else None,
                "D_H": _finite(attractors.spectral_distance(held[None], run[None], smoothing)),
            }

    earlier = states[max(0, cut - len(held)) : cut, :count]
    return {
        "starts": len(starts),
        "longest_horizon": steps,
        "run": len(held),
        "model": scores(simulator),
        "persistence": scores(persistence()),
        "earlier": shape(earlier) if len(earlier) == len(held) else None,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside the wanted one that takes its name when everything in it is written, and goes if anything fails."""
    folder = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        yield folder
        os.chmod(folder, 0o755)
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(path: Path, model: FittedModel, series: Series) -> None:
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


def _forecast_frame(table: Table, cut: int, forecast: np.ndarray) -> pd.DataFrame:
    """Time (or the row's number), forecast and observation of each column."""
    rows = slice(cut, cut + len(forecast))
    clock = table.time[rows] if table.time_name else table.time[rows].astype(int)
    parts = {table.time_name or "row": clock}
    parts |= {f"{name}_forecast": column for name, column in zip(table.columns, forecast.T, strict=True)}
    parts |= {f"{name}_observed": column for name, column in zip(table.columns, table.values[rows].T, strict=True)}
    return pd.DataFrame(parts)


def _draw(path: Path, table: Table, cut: int, forecast: np.ndarray, metrics: dict[str, Any]) -> None:
    """Forecast against the held-out end, error by horizon, and the attractor, or the spectra of a single column."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from touchstone.plotting import colours, use_style

    shown, before, some = min(len(forecast), 400), min(cut, 100), min(len(table.columns), 4)
    clock, label = table.time, f"{table.time_name} (file's units)" if table.time_name else "row (-)"
    with mpl.rc_context():
        use_style()
        figure = Figure(figsize=(7.6, 1.5 * some + 2.8))
        layout = [[i, i] for i in range(some)] + [["error", "shape"]]
        axes = figure.subplot_mosaic(layout, height_ratios=[1] * some + [1.6])
        for i in range(some):
            known, new = slice(cut - before, cut + shown), slice(cut, cut + shown)
            axes[i].plot(clock[known], table.values[known, i], color=colours[6], lw=1, label="observed")
            axes[i].plot(clock[new], forecast[:shown, i], "--", color=colours[1], label=metrics["method"])
            axes[i].axvline(clock[cut], color="0.6", lw=0.8)
            low, high = np.min(table.values[:, i]), np.max(table.values[:, i])
            axes[i].set(ylabel=table.columns[i], ylim=(low - 0.3 * (high - low), high + 0.3 * (high - low)))
        axes[0].legend(ncols=2, loc="upper left", fontsize=8)
        axes[some - 1].set_xlabel(label)
        for who, style, colour in (("model", "o-", colours[1]), ("persistence", "s:", colours[5])):
            error = {int(h): np.nan if e is None else e for h, e in metrics[who]["rmse_std"].items()}
            name = metrics["method"] if who == "model" else who
            axes["error"].semilogx(list(error), list(error.values()), style, ms=4, color=colour, label=name)
        axes["error"].set(
            xlabel="horizon (steps)", ylabel="rms error (std)", xticks=list(error), xticklabels=list(error)
        )
        axes["error"].minorticks_off()
        axes["error"].set_ylim(0, 1.1 * max(metrics["persistence"]["rmse_std"].values()))
        axes["error"].legend(fontsize=8)
        observed = table.values[cut : cut + len(forecast)]
        for values, style, colour in ((observed, "-", colours[6]), (forecast, "--", colours[1])):
            if len(table.columns) > 1:
                axes["shape"].plot(values[:, 0], values[:, -1], style, lw=0.6, color=colour)
            elif np.isfinite(values).all():
                power = np.abs(np.fft.rfft((values[:, 0] - values.mean()) * np.hanning(len(values)))) ** 2
                width = 1 + len(power) // 200  # frequencies averaged, so that lines stay readable
                power = np.convolve(power, np.ones(width) / width, "same")
                axes["shape"].semilogy(
                    np.fft.rfftfreq(len(values))[1:], power[1:] + 1e-12 * power.max(), style, color=colour
                )
        if len(table.columns) > 1:
            box = [
                (low - 0.1 * (high - low), high + 0.1 * (high - low))
                for low, high in zip(table.values.min(0), table.values.max(0), strict=True)
            ]
            axes["shape"].set(xlabel=table.columns[0], ylabel=table.columns[-1], xlim=box[0], ylim=box[-1])
        else:
            axes["shape"].set(xlabel="frequency (1/step)", ylabel=f"power of {table.columns[0]}")
        figure.savefig(path)
