"""The arena: budgets, entrants, cells that are whole, and cells that are stale."""

import json

import numpy as np
import pytest

from touchstone import arena, cli
from touchstone.arena import (
    Budget,
    Ring,
    cell_path,
    cells_digest,
    entrant,
    entrants,
    read_cells,
    ring,
    run_cell,
    waiting_cells,
)
from touchstone.catalogue import TouchstoneError
from touchstone.pairs import check_cells
from touchstone.pinns.problems import conv


@pytest.fixture
def toy_ring(root, monkeypatch):
    """A ring of two problems and two seeds with one contestant that adds and one that breaks."""
    the_ring = Ring(
        "pinns",
        {"easy": lambda: 1.0, "hard": lambda: 10.0},
        [0, 1],
        5.0,
        lambda solution, problem: {"error": solution - problem},
    )

    def adds(problem, budget, seed):
        return problem + seed + 0.0 * budget.spent()

    def breaks(problem, budget, seed):
        if seed == 1 and problem < 5:
            raise ValueError("only problems without a boundary")
        if problem > 5:
            raise ArithmeticError(f"step 3: the residual became NaN (seed {seed})")
        return float("nan")

    monkeypatch.setattr(arena, "ring", lambda part: the_ring)
    monkeypatch.setattr(arena, "entrants", lambda part: {"adds": adds, "breaks": breaks})
    return the_ring


def test_a_budget_counts_cpu_seconds_not_waiting(monkeypatch):
    # a clock of our own: under some containers the process clock runs during sleep
    clock = {"cpu": 7.0, "wall": 100.0}
    monkeypatch.setattr(arena.time, "process_time", lambda: clock["cpu"])
    monkeypatch.setattr(arena.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(arena.time, "monotonic", lambda: clock["wall"])
    budget = Budget(0.5)
    clock["wall"] += 10.0
    assert budget.spent() == 0.0 and not budget.exhausted() and budget.fraction() == 0.0
    clock["cpu"] += 0.25
    assert budget.spent() == 0.25 and not budget.exhausted() and budget.fraction() == 0.5
    clock["cpu"] += 0.5
    assert budget.exhausted() and budget.fraction() == 1.0


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_an_empty_budget_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds is .* needs more than zero"):
        Budget(seconds)


def test_cells_are_files_with_scores(toy_ring, root):
    path = run_cell("pinns", "adds", "hard", 1, root)
    assert path == cell_path(root, "pinns", "adds", "hard", 1) == root / "results/arena/pinns/adds--hard--1.json"
    cell = json.loads(path.read_text())
    assert (
        cell["scores"] == {"error": 1.0}
        and cell["error"] is None
        and cell["declined"] is None
        and cell["budget_s"] == 5.0
        and cell["cpu_s"] < 5
    )


def test_a_problem_can_have_a_budget_of_its_own(root, monkeypatch):
    given = []

    def spends(problem, budget, seed):
        given.append(budget.seconds)
        return problem

    tasks = {"one": lambda: 1.0, "one-long": lambda: 1.0}
    the_ring = Ring("pinns", tasks, [0], 2.0, lambda solution, problem: {}, budgets={"one-long": 8.0})
    monkeypatch.setattr(arena, "ring", lambda part: the_ring)
    monkeypatch.setattr(arena, "entrants", lambda part: {"spends": spends})
    run_cell("pinns", "spends", "one", 0, root)
    path = run_cell("pinns", "spends", "one-long", 0, root)
    assert given == [2.0, 8.0] and json.loads(path.read_text())["budget_s"] == 8.0
    assert waiting_cells("pinns", root) == []
    the_ring.budgets["one-long"] = 6.0  # a cell of another budget is no cell of this ring
    assert waiting_cells("pinns", root) == [("spends", "one-long", 0)]
    with pytest.raises(ValueError, match="budgets names two: not among the problems of ring 'pinns'"):
        Ring("pinns", tasks, [0], 2.0, len, budgets={"two": 1.0})


def test_a_contestant_that_breaks_counts_as_a_failure_and_is_not_hidden(toy_ring, root):
    run_cell("pinns", "breaks", "hard", 0, root)
    run_cell("pinns", "breaks", "easy", 0, root)
    run_cell("pinns", "adds", "easy", 1, root)
    frame = read_cells("pinns", root).set_index(["method", "problem"])
    assert frame.loc[("adds", "easy"), "error"] is None
    broken = json.loads(cell_path(root, "pinns", "breaks", "hard", 0).read_text())
    assert broken["scores"] == {} and broken["error"] == "ArithmeticError: step 3: the residual became NaN (seed 0)"
    assert json.loads(cell_path(root, "pinns", "breaks", "easy", 0).read_text())["scores"] == {"error": None}


def test_only_missing_stale_and_damaged_cells_wait(toy_ring, root, monkeypatch):
    everything = {(m, p, s) for m in ("adds", "breaks") for p in ("easy", "hard") for s in (0, 1)}
    assert set(waiting_cells("pinns", root)) == everything
    for method, problem, seed in everything:
        run_cell("pinns", method, problem, seed, root)
    assert waiting_cells("pinns", root) == []
    cell_path(root, "pinns", "adds", "easy", 0).write_text("{")
    assert waiting_cells("pinns", root) == [("adds", "easy", 0)]
    with pytest.raises(
        TouchstoneError, match=r"adds--easy--0.json: damaged cell .* delete it and run `touchstone arena pinns`"
    ):
        read_cells("pinns", root)
    monkeypatch.setattr(arena, "cell_hash", lambda function, problem: "other code")
    assert set(waiting_cells("pinns", root)) == everything


def test_a_page_that_shows_other_cells_is_found(toy_ring, root):
    page = root / "notebooks" / "pinns" / "arena.ipynb"
    page.parent.mkdir(parents=True, exist_ok=True)
    run_cell("pinns", "adds", "hard", 1, root)
    page.write_text(json.dumps({"metadata": {"touchstone": {"cells": cells_digest("pinns", root)}}}))
    assert check_cells(page, cells_digest("pinns", root)) == []
    run_cell("pinns", "adds", "hard", 0, root)
    [problem] = check_cells(page, cells_digest("pinns", root))
    assert problem.startswith("notebooks/pinns/arena.ipynb: shows other cells") and "touchstone arena pinns" in problem


def test_unknown_contestants_problems_and_parts(toy_ring, root):
    with pytest.raises(TouchstoneError, match="no entrant 'add' in arena pinns: did you mean adds"):
        run_cell("pinns", "add", "easy", 0, root)
    with pytest.raises(TouchstoneError, match="no problem 'hart' in arena pinns: did you mean hard"):
        run_cell("pinns", "adds", "hart", 0, root)
    with pytest.raises(TouchstoneError, match="unknown part 'pin'"):
        entrant("pin", "x")


def test_who_declines_neither_scores_nor_fails(toy_ring, root):
    run_cell("pinns", "breaks", "easy", 1, root)
    (row,) = read_cells("pinns", root).to_dict("records")
    assert row["declined"] == "only problems without a boundary" and row["error"] is None and "score" not in row


def test_parts_without_an_arena_say_so():
    with pytest.raises(TouchstoneError, match="part 'quantum' has no arena yet"):
        ring("quantum")
    with pytest.raises(TouchstoneError, match="part 'theory' has no arena yet"):
        ring("theory")
    with pytest.raises(TouchstoneError, match="unknown part 'pins': did you mean pinns"):
        entrants("pins")


def test_the_pinns_ring_has_three_entrants_three_problems_two_seeds():
    the_ring = ring("pinns")
    assert {"plain", "causal-pinn", "r3-sampling"} <= set(entrants("pinns"))
    assert len(the_ring.problems) >= 3 and len(the_ring.seeds) >= 2 and the_ring.budget_s > 0


def test_every_cell_of_the_pinns_arena_is_there_and_fresh(monkeypatch):
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    assert waiting_cells("pinns") == []
    frame = read_cells("pinns")
    assert frame.groupby(["method", "problem"]).size().min() >= 2
    # a cell's time includes the judging of the answer on 25,856 points: a second or two for a transformer; the one that the
    # page names looks at the clock every twenty iterations of L-BFGS, which take ten seconds in ten dimensions
    known = (frame["method"] == "xnet") & frame["problem"].str.startswith("pois-hd10")
    budget = frame["problem"].map(ring("pinns").budget)
    overspent = frame[~known & (frame["cpu_s"] > np.maximum(1.3 * budget, budget + 3))]
    assert overspent.empty, overspent


def test_every_cell_of_the_dynamics_arena_is_there_and_fresh(monkeypatch):
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    assert waiting_cells("dynamics") == []
    frame = read_cells("dynamics")
    assert (frame.groupby(["method", "problem"]).size() == 3).all()
    # only a series of which one variable is seen has no vector field to regress on
    declined = frame.dropna(subset=["declined"])
    assert set(zip(declined["method"], declined["problem"], strict=True)) == {("sindy", "lorenz-63-partial")}
    assert (frame["cpu_s"] <= 1.1 * frame["problem"].map(ring("dynamics").budget)).all()


def test_the_command_computes_cells_as_jobs(root, monkeypatch, capfd):
    """`touchstone arena` hands the waiting cells to Snakemake; the second call finds nothing to do."""
    calls = []
    monkeypatch.setattr(arena, "ring", lambda part: arena.Ring("pinns", {"p": conv}, [0, 1], 1.0, len))
    monkeypatch.setattr(arena, "entrants", lambda part: {"m": test_unknown_contestants_problems_and_parts})
    monkeypatch.setattr(cli, "_snakemake", lambda *arguments, **options: calls.append(arguments[1]) or 0)
    assert cli.main(["arena", "pinns"]) == 0
    assert calls == [[".cache/done/arena/pinns/m--p--0", ".cache/done/arena/pinns/m--p--1"]]
    assert "2 cells to compute" in capfd.readouterr().out
