"""The command ``touchstone dynamics fit``: its options, and what it says."""

import argparse
import sys
from pathlib import Path


def add_options(dynamics: argparse.ArgumentParser) -> None:
    """Give the command ``dynamics`` its action and options."""
    fit = dynamics.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "fit",
        help="fit a method to a table and judge its forecasts",
        description="Fit a method to a table: a header line, one column a variable, a row for each time at a constant step.",
    )
    fit.add_argument("file", metavar="FILE.csv")
    fit.add_argument("--method", required=True, help="al-rnn, or any other contestant of the arena `dynamics`")
    fit.add_argument("--out", required=True, help="new folder for model, forecast, metrics and figure")
    fit.add_argument("--seconds", type=float, default=60.0, help="CPU seconds for the fit (60)")
    fit.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    fit.add_argument("--tail", type=float, default=0.2, help="share of the rows, at the end, to hold out (0.2)")
    fit.add_argument("--time", help="name of the time column (a column called t or time, if there is one)")
    fit.add_argument(
        "--delays", type=int, default=1, help="past values of each column in a state (1: none but the present)"
    )
    fit.add_argument("--lag", type=int, help="rows between two of them (a sixth of the dominant period)")


def fit(arguments: argparse.Namespace) -> int:
    """Fit a method to a user's table; needs no checkout."""
    from touchstone.dynamics.own_data import fit_file

    out, method = Path(arguments.out), arguments.method
    try:
        found = fit_file(
            Path(arguments.file),
            method,
            out,
            seconds=arguments.seconds,
            seed=arguments.seed,
            tail=arguments.tail,
            time=arguments.time,
            delays=arguments.delays,
            lag=arguments.lag,
        )
    except ArithmeticError as failure:
        print(f"touchstone: {method} broke down ({failure}); nothing was written, try another --seed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("touchstone: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(
        f"{method}: learned from {found['rows_learned']} rows of {found['file']}, {found['rows_held_out']} held out, "
        f"{found['cpu_s']:.1f} CPU s"
    )
    for who in ("model", "persistence"):
        errors = [f"{e:.2f} after {h}" for h, e in found[who]["rmse_std"].items() if e is not None][:7]
        print(
            f"  {method if who == 'model' else who}: within 0.4 standard deviations for "
            f"{found[who]['valid_prediction_steps']:g} steps (median of {found['starts']} starts); rms error "
            f"{', '.join(errors) or 'not finite'} steps"
        )
    if len(found["columns"]) == 1 and found["delays"] == 1:
        print("  note: one column is seldom a state; methods without memory need --delays, such as --delays 4")
    print(f"{out}/: model.pt, forecast.csv, metrics.json, figure.png")
    print(f'load it: from touchstone.dynamics.own_data import load_model; load_model("{out}").simulate(steps=100)')
    return 0
