"""Fit, judge and write: everything that one call of ``touchstone dynamics fit`` does."""

import contextlib
import difflib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from touchstone import arena, provenance
from touchstone.arena import Budget
from touchstone.catalogue import TouchstoneError
from touchstone.data.trajectory import spectral_period
from touchstone.dynamics.own_data.judging import LONGEST, draw, forecast_frame, judge
from touchstone.dynamics.own_data.model import PAST, FittedModel, Scale, methods, save_model
from touchstone.dynamics.own_data.table import read_table
from touchstone.dynamics.protocol import Series

WINDOW = 65  # fewest states to learn from: a training window of the recurrent reconstructors


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
        save_model(folder / "model.pt", model, series)
        forecast_frame(table, len(learned), forecast).to_csv(folder / "forecast.csv", index=False)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        draw(folder / "figure.png", table, len(learned), forecast, metrics)
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
