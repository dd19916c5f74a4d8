"""A user's own series: what is refused and why, what is written, and that it can be used again."""

import io
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers import unchecked
from touchstone import cli
from touchstone.arena import Budget
from touchstone.catalogue import TouchstoneError
from touchstone.data import ode
from touchstone.data.chaotic_flows import CHAOS12
from touchstone.dynamics.baselines import fit_dmd, persistence
from touchstone.dynamics.own_data import FittedModel, Scale, fit, fit_file, judge, load_model, methods, read_table
from touchstone.dynamics.own_data.model import save_model
from touchstone.dynamics.protocol import Series

FILES = {"model.pt", "forecast.csv", "metrics.json", "figure.png"}
ANGLE = 0.3 * np.arange(400)
CIRCLE = pd.DataFrame({"t": 0.1 * np.arange(400), "a": 5 + 2 * np.cos(ANGLE), "b": 3 * np.sin(ANGLE)})


@pytest.fixture
def write(tmp_path):
    """Write a table or text as ``data.csv``; returns its path."""

    def written(content):
        path = tmp_path / "data.csv"
        path.write_text(content if isinstance(content, str) else content.to_csv(index=False))
        return path

    return written


def changed(row, column, value):
    frame = CIRCLE.astype(object)
    frame.loc[row, column] = value
    return frame


def call(path, *options, method="persistence", out=None):
    """The command with a folder beside the file."""
    return cli.main(
        ["dynamics", "fit", str(path), "--method", method, "--out", str(out or path.parent / "model"), *options]
    )


BAD = {
    "text": (changed(7, "b", "high"), [], "column 'b', line 9: 'high' is not a number"),
    "decimal comma": (
        "a;b\n1,5;2\n2,5;3\n",
        [],
        "column 'a', line 2: '1,5' is not a number; leave out columns of text",
    ),
    "gap": (changed(3, "a", None), [], "column 'a': 1 missing, NaN or infinite values, the first in line 5"),
    "nan": (changed(4, "a", "NaN"), [], "column 'a': 1 missing, NaN or infinite values, the first in line 6"),
    "infinite": (changed(4, "a", "inf"), [], "column 'a': 1 missing, NaN or infinite values, the first in line 6"),
    "short": (CIRCLE[:70], [], "has 70 rows: with 14 held out, 56 are left, fewer than one window of 65"),
    "one row": (CIRCLE[:1], [], "has 1 rows: with 1 held out, 0 are left"),
    "no rows": (CIRCLE[:0], [], "has 0 rows"),
    "short for delays": (
        CIRCLE,
        ["--delays", "9", "--lag", "40"],
        "80 held out and 320 lost to the delays, 0 are left",
    ),
    "irregular": (
        changed(100, "t", 10.03),
        [],
        "time column 't': irregular, the step is 0.1 for the median row but 0.13 before line 102",
    ),
    "backwards": (CIRCLE[::-1], [], "time column 't' does not increase in line 3: sort the rows"),
    "constant": (CIRCLE.assign(c=3.1, d=7), [], "constant in the 320 rows to learn from: c, d; leave out such columns"),
    "no header": ("1,2\n3,4\n", [], "has no header line"),
    "name twice": ("a,a\n3,4\n", [], "more than one column is called 'a'"),
    "ragged": ("a,b\n3,4\n1,2,3\n", [], "is not a table: Expected 2 fields in line 3, saw 3"),
    "too wide": ("a,b\n3,4,5\n1,2,3\n", [], "more fields than the header has names"),
    "empty": ("", [], "is not a table: No columns"),
    "time alone": (CIRCLE[["t"]], [], "no variables besides the time column 't'"),
    "time unknown": (CIRCLE, ["--time", "tt"], "has no time column 'tt': did you mean t?"),
    "method": (CIRCLE, ["--method", "al-rn"], "unknown method 'al-rn': did you mean al-rnn?"),
    "no such method": (CIRCLE, ["--method", "zzz"], "unknown method 'zzz': there are al-rnn, "),
    "seconds": (CIRCLE, ["--seconds", "0"], "--seconds is 0.0: give a number above 0"),
    "tail": (CIRCLE, ["--tail", "0.9"], "--tail is 0.9: give a share"),
    "delays": (CIRCLE, ["--delays", "0"], "--delays is 0: give 1 or more"),
    "lag": (CIRCLE, ["--lag", "0"], "--lag is 0: give 1 or more"),
    "seed": (CIRCLE, ["--seed", "-1"], "--seed is -1: give 0 or more"),
    "short for the method": (CIRCLE[:100], ["--method", "lstm"], "lstm cannot be fitted to "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_leaves_nothing(write, capsys, case):
    content, options, words = BAD[case]
    path = write(content)
    assert call(path, *options) == 2
    out, error = capsys.readouterr()
    assert words in error and error.startswith("touchstone: ") and out == ""
    assert os.listdir(path.parent) == ["data.csv"]


def test_files_and_folders_that_cannot_be_used(write, tmp_path, capsys):
    path = write(CIRCLE)
    assert call(tmp_path / "dat.csv") == 2
    assert "dat.csv does not exist: name a table" in capsys.readouterr().err
    assert call(tmp_path, out=tmp_path / "model") == 2
    assert "is no file" in capsys.readouterr().err
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    assert call(path) == 2
    assert "model exists: name a new folder" in capsys.readouterr().err
    assert os.listdir(tmp_path / "model") == ["mine.txt"]
    assert call(path, out=tmp_path / "no" / "model") == 2
    assert "no is not a folder that can be written" in capsys.readouterr().err
    path.write_bytes(b"\xff\xfe\x00a")
    assert call(path, out=tmp_path / "new") == 2
    assert "data.csv is not a table: no text" in capsys.readouterr().err


def test_tables_as_other_programs_write_them(write):
    table = read_table(write("\ufeffTime; a ;b\n0;1;2\n0,5".replace("0,5", "0.5") + ";3;4\n\n"))
    assert table.columns == ("a", "b") and table.time_name == "Time" and table.dt == 0.5
    assert table.values.tolist() == [[1, 2], [3, 4]]
    numbered = read_table(write(CIRCLE.to_csv()))  # the row numbers that pandas writes are no variable
    assert numbered.columns == ("a", "b") and np.allclose(numbered.values, CIRCLE[["a", "b"]].to_numpy())
    bare = read_table(write("a\n1\n2\n"))
    assert bare.time_name is None and bare.dt == 1 and bare.time.tolist() == [0, 1]


def test_roessler(tmp_path, capsys):
    step = 5.858 / 40
    states = ode.trajectories(CHAOS12["roessler"], step, 1600, 1, 0)[0]
    path, out = tmp_path / "roessler.csv", tmp_path / "model"
    frame = pd.DataFrame({"time": 3 + step * np.arange(1600), **dict(zip("xyz", states.T, strict=True))})
    frame.to_csv(path, index=False)
    assert call(path, "--seconds", "1.2", "--seed", "3", method="al-rnn") == 0
    printed = capsys.readouterr()
    assert "learned from 1280 rows of roessler.csv, 320 held out" in printed.out and printed.err == ""
    assert f'load_model("{out}").simulate(steps=100)' in printed.out
    assert set(os.listdir(out)) == FILES and set(os.listdir(tmp_path)) == {"roessler.csv", "model"}
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")

    forecast = pd.read_csv(out / "forecast.csv")
    assert list(forecast) == ["time", *[f"{n}_forecast" for n in "xyz"], *[f"{n}_observed" for n in "xyz"]]
    assert np.allclose(forecast["time"], frame["time"][1280:]) and np.allclose(forecast["z_observed"], states[1280:, 2])
    model = load_model(out)
    guess = forecast[[f"{n}_forecast" for n in "xyz"]].to_numpy()
    assert np.allclose(model.simulate(320, states[:1280]), guess, rtol=1e-9, equal_nan=True)
    later = model.simulate(5)  # by default from the end of the file
    assert np.allclose(later, model.simulate(5, states), rtol=1e-9) and np.abs(later[0] - states[-1]).max() < 10

    metrics = json.loads((out / "metrics.json").read_text())
    assert (
        metrics["seed"] == 3
        and metrics["dt"] == pytest.approx(step)
        and metrics["period_steps"] == pytest.approx(40, rel=0.05)
    )
    assert 0.3 < metrics["cpu_s"] < 4 and metrics["longest_horizon"] == 160 and metrics["run"] == 320
    for who in ("model", "persistence"):
        assert set(metrics[who]) == {"rmse_std", "rmse", "valid_prediction_steps", "D_stsp", "D_H"}
        assert list(metrics[who]["rmse"]) == ["x", "y", "z"]
    assert metrics["model"]["rmse_std"]["10"] < 0.6 * metrics["persistence"]["rmse_std"]["10"]
    assert metrics["persistence"]["D_H"] == 1 and metrics["earlier"]["D_H"] < 0.3


def test_sunspots(tmp_path, capsys):
    import statsmodels.api as sm

    path = tmp_path / "sunspots.csv"
    sm.datasets.sunspots.load_pandas().data.to_csv(path, index=False)
    assert call(path, "--time", "YEAR", "--delays", "4", "--seconds", "1", method="al-rnn") == 0
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["columns"] == ["SUNACTIVITY"] and metrics["rows_learned"] == 247 and metrics["rows_held_out"] == 62
    assert metrics["period_steps"] == pytest.approx(11, abs=0.5) and metrics["lag"] == 2
    forecast = pd.read_csv(tmp_path / "model" / "forecast.csv")
    assert list(forecast) == ["YEAR", "SUNACTIVITY_forecast", "SUNACTIVITY_observed"] and forecast["YEAR"][0] == 1947
    history = pd.read_csv(path)[["SUNACTIVITY"]].to_numpy()[:247]
    assert np.allclose(load_model(tmp_path / "model").simulate(62, history)[:, 0], forecast["SUNACTIVITY_forecast"])
    capsys.readouterr()
    assert call(path, "--time", "YEAR", method="dmd", out=tmp_path / "dmd") == 0
    assert "one column is seldom a state" in capsys.readouterr().out
    errors = json.loads((tmp_path / "dmd" / "metrics.json").read_text())
    assert errors["model"]["rmse_std"]["5"] < 0.5 * errors["persistence"]["rmse_std"]["5"]


def test_every_method_is_on_offer_and_comes_back_the_same(tmp_path):
    values = CIRCLE[["a", "b"]].to_numpy()
    scale = Scale(values.mean(0), values.std(0), 1, 1)
    series = Series("circle", scale.states(values), 0.1)
    known = methods()
    assert {"al-rnn", "echo-state", "generalized-teacher-forcing", "lstm", "neural-ode", "persistence"} <= set(known)
    for name, learn in known.items():
        about = {"method": name, "file": "circle", "dt": 0.1, "seed": 0, "seconds": 0.15}
        model = FittedModel(about, scale, learn(series, Budget(0.15), 0), values[-150:])
        save_model(tmp_path / name, model, series)
        again = load_model(tmp_path / name)
        assert np.allclose(again.simulate(20), model.simulate(20), rtol=1e-9, equal_nan=True), name
        assert again.about == about


def test_delay_vectors_have_the_newest_value_first():
    values = np.stack([np.arange(10.0), 100 + np.arange(10.0)], 1)
    scale = Scale(np.zeros(2), np.ones(2), delays=3, lag=2)
    states = scale.states(values)
    assert scale.lost == 4 and states.shape == (6, 6)
    assert states[0].tolist() == [4, 104, 2, 102, 0, 100] and states[-1].tolist() == [9, 109, 7, 107, 5, 105]
    shifted = Scale(np.array([1.0, 100.0]), np.array([2.0, 5.0]), 3, 2)
    assert np.allclose(shifted.values(shifted.states(values)), values[4:])
    assert np.isnan(scale.values(np.full((1, 6), 1e7))).all()


def test_the_judge_knows_the_exact_model_and_the_lost_one():
    values = CIRCLE[["a", "b"]].to_numpy()
    scale = Scale(values.mean(0), values.std(0), 1, 1)
    states = scale.states(values)
    found = judge(fit_dmd(states[:300], ridge=0.0), scale, states, 300, ("a", "b"))
    assert found["longest_horizon"] == 50 and found["starts"] == 20 and found["run"] == 100
    exact, stays = found["model"], found["persistence"]
    assert max(exact["rmse_std"].values()) < 1e-6 and exact["valid_prediction_steps"] == 50 and exact["D_H"] < 1e-3
    # a step of 0.3 radians moves the point by 2 sin(0.15) radii; the radius is sqrt(2) standard deviations
    assert stays["rmse_std"]["1"] == pytest.approx(2 * np.sin(0.15), rel=0.02) and stays["valid_prediction_steps"] == 1
    assert stays["rmse"]["b"]["1"] / stays["rmse"]["a"]["1"] == pytest.approx(1.5, rel=0.15)

    class Lost:
        def simulate(self, past, steps):
            return np.full((len(past), steps, past.shape[2]), np.inf)

    lost = judge(Lost(), scale, states, 300, ("a", "b"))["model"]
    assert lost["rmse_std"]["1"] is None and lost["valid_prediction_steps"] == 0 and lost["D_H"] == 1
    json.dumps(lost, allow_nan=False)


@pytest.mark.parametrize(("failure", "code", "words"), [
    (OSError(28, "No space left on device"), 1, "No space left on device"),
    (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
])  # fmt: skip
def test_a_failure_while_writing_leaves_nothing(write, monkeypatch, capsys, failure, code, words):
    def fail(path, *arguments):
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(fit, "draw", fail)
    path = write(CIRCLE)
    assert call(path) == code
    assert words in capsys.readouterr().err and os.listdir(path.parent) == ["data.csv"]


def test_a_breakdown_in_training_is_one_message(write, monkeypatch, capsys):
    def fail(series, budget, seed):
        raise FloatingPointError("loss is NaN or infinite")

    monkeypatch.setattr(fit, "methods", lambda: {"dmd": fail})
    path = write(CIRCLE)
    assert call(path, method="dmd") == 1
    assert "dmd broke down (loss is NaN or infinite); nothing was written" in capsys.readouterr().err
    assert os.listdir(path.parent) == ["data.csv"]


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    budget = Budget(0.4)
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with fit._progress(budget, "al-rnn"):
            if shown:
                while not budget.exhausted():
                    pass
        assert ("al-rnn" in stream.getvalue() and "CPU s" in stream.getvalue()) is shown


class Trap:
    """Would make a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_model_files_that_hold_anything_else_are_refused(tmp_path):
    torch.save({"simulator": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(TouchstoneError, match=r"names \w+\.mkdir, which no model of this command holds"):
        load_model(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "model.pt").write_bytes(b"not a model")
    with pytest.raises(TouchstoneError, match="model.pt is damaged or no model"):
        load_model(tmp_path)
    with pytest.raises(TouchstoneError, match="does not exist: `touchstone dynamics fit` writes it"):
        load_model(tmp_path / "nowhere")


def test_a_model_refuses_a_past_that_does_not_fit():
    model = FittedModel({}, Scale(np.zeros(2), np.ones(2), 2, 3), persistence(), np.ones((9, 2)))
    assert model.simulate(2).shape == (2, 2)
    for past in (np.ones((3, 2)), np.ones((9, 3)), np.ones(9)):
        with pytest.raises(ValueError, match="give at least 4 rows of the 2 columns"):
            unchecked(FittedModel.simulate)(model, 2, past)
    with pytest.raises(ValueError, match="steps is 0: give 1 or more"):
        model.simulate(0)


def test_the_function_returns_what_it_writes(write):
    path = write(CIRCLE.drop(columns="t"))
    found = fit_file(path, "simplex", path.parent / "model", tail=0.25)
    assert json.loads((path.parent / "model" / "metrics.json").read_text()) == found
    assert found["rows_held_out"] == 100 and pd.read_csv(path.parent / "model" / "forecast.csv")["row"][0] == 300
