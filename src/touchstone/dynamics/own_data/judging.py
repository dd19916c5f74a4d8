"""How a fitted model does on the held-out end: forecasts from many starts, one long run, a table and a figure of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from touchstone.dynamics.baselines import persistence
from touchstone.dynamics.own_data.model import PAST, Scale, run_from
from touchstone.dynamics.own_data.table import Table
from touchstone.dynamics.protocol import Simulator
from touchstone.metrics import attractors

STARTS, LONGEST = 20, 10_000  # forecasts that are judged; most steps of a run
HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


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
        guess = scale.values(run_from(contestant, past, steps))
        error = (guess - scale.values(truth)) / scale.std
        whole = run_from(contestant, states[None, cut - fewest : cut], len(held))[..., :count]
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


def forecast_frame(table: Table, cut: int, forecast: np.ndarray) -> pd.DataFrame:
    """Time (or the row's number), forecast and observation of each column."""
    rows = slice(cut, cut + len(forecast))
    clock = table.time[rows] if table.time_name else table.time[rows].astype(int)
    parts = {table.time_name or "row": clock}
    parts |= {f"{name}_forecast": column for name, column in zip(table.columns, forecast.T, strict=True)}
    parts |= {f"{name}_observed": column for name, column in zip(table.columns, table.values[rows].T, strict=True)}
    return pd.DataFrame(parts)


def draw(path: Path, table: Table, cut: int, forecast: np.ndarray, metrics: dict[str, Any]) -> None:
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
