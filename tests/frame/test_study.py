"""Studies: sweeps that resume, keys that follow the code, and records that say what was measured."""

import collections
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from touchstone import provenance
from touchstone.catalogue import TouchstoneError
from touchstone.study import Study, ratio

CALLS = collections.deque()  # a deque is no constant, so it does not count as code
FACTOR = 2.0
ROOT = Path(__file__).resolve().parents[2]


def measure(seed, method):
    CALLS.append((method, seed))
    return {"x": FACTOR * seed, "tensor": torch.ones(2), "zero_d": torch.tensor(1.5)}


def batched(seeds, width):
    return [{"seed": s, "y": s + width} for s in seeds]


def draw(seed):
    return {"torch": torch.rand(()), "numpy": np.random.random()}  # noqa: NPY002


def process(seed):
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "omp": os.environ.get("OMP_NUM_THREADS")}


@pytest.fixture
def study(root):
    CALLS.clear()
    return Study("toy-method", profile="full", seeds={"full": 2})


def test_a_sweep_runs_every_cell_once_and_is_tidy(study):
    frame = study.sweep(measure, jobs=1, method=["a", "b"])
    assert list(CALLS) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert list(frame.columns) == ["method", "seed", "x", "tensor", "zero_d", "cpu_s", "wall_s"]
    assert list(frame["x"]) == [0.0, 2.0, 0.0, 2.0]
    assert isinstance(frame["tensor"][0], np.ndarray) and frame["zero_d"][0] == 1.5
    again = study.sweep(measure, jobs=1, method=["a", "b", "c"])
    assert list(CALLS)[4:] == [("c", 0), ("c", 1)]
    pd.testing.assert_frame_equal(again[:4], frame)


def test_batched_seeds_are_one_call(study):
    frame = study.sweep(batched, jobs=1, width=[10, 20])
    assert frame[["width", "seed", "y"]].values.tolist() == [[10, 0, 10], [10, 1, 11], [20, 0, 20], [20, 1, 21]]
    with pytest.raises(TouchstoneError, match="needs a key 'seed'"):
        study.sweep(lambda seeds: [{"y": 1}], jobs=1)


def test_parallel_equals_serial_and_uses_one_thread(study):
    parallel = study.sweep(draw, jobs=2)
    for path in (study.root / ".cache").rglob("*.pkl"):
        path.unlink()
    serial = study.sweep(draw, jobs=1)
    assert parallel[["torch", "numpy"]].equals(serial[["torch", "numpy"]])
    workers = study.sweep(process, jobs=2)
    assert os.getpid() not in set(workers["pid"]) and set(workers["threads"]) == {1} and set(workers["omp"]) == {"1"}


def test_an_interrupted_sweep_resumes(study):
    def until(seed, limit):
        CALLS.append(seed)
        if seed == FACTOR:
            raise KeyboardInterrupt
        return {"x": seed}

    globals()["FACTOR"] = 3
    try:
        with pytest.raises(KeyboardInterrupt):
            study.sweep(until, seeds=range(5), jobs=1, limit=[0])
        assert list(CALLS) == [0, 1, 2, 3]
        assert len(list((study.root / ".cache").rglob("*.pkl"))) == 3
        assert not list((study.root / ".cache").rglob("*.tmp"))
    finally:
        globals()["FACTOR"] = 2.0


def test_a_cell_that_raises_is_named_and_the_others_are_kept(study):
    def fragile(seed, method):
        if method == "b":
            raise ZeroDivisionError("no")
        return {"x": 1}

    with pytest.raises(RuntimeError, match=r"cell \{'method': 'b'\} with seed 0 failed: ZeroDivisionError: no"):
        study.sweep(fragile, jobs=1, method=["a", "b"])
    assert len(list((study.root / ".cache").rglob("*.pkl"))) == 2


def test_a_worker_that_is_killed_raises_and_keeps_finished_cells(study):
    def dies(seed):
        if seed == 1:
            import time

            time.sleep(1.0)
            os.kill(os.getpid(), 9)
        return {"x": seed}

    with pytest.raises(Exception, match="terminated|killed"):
        study.sweep(dies, jobs=2)
    assert [pickle.loads(p.read_bytes())["rows"][0]["x"] for p in (study.root / ".cache").rglob("*.pkl")] == [0]


def test_a_damaged_cell_runs_again(study, capfd):
    study.sweep(measure, jobs=1, method=["a"])
    for path in (study.root / ".cache").rglob("*.pkl"):
        path.write_bytes(b"half")
    study.sweep(measure, jobs=1, method=["a"])
    assert len(CALLS) == 4 and "is damaged" in capfd.readouterr().err


def test_wrong_factors_are_refused(study):
    with pytest.raises(TouchstoneError, match="takes no argument metod"):
        study.sweep(measure, metod=["a"])
    with pytest.raises(TouchstoneError, match="takes no argument seed or seeds"):
        study.sweep(lambda method: {}, method=["a"])


def _hash_of(source: str, **names) -> str:
    import linecache

    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    namespace = {"__name__": "__main__", **names}
    exec(compile(source, "<cell>", "exec"), namespace)
    return provenance.function_hash(namespace["f"])


def test_the_key_follows_source_constants_and_called_functions():
    source = "def g(x):\n    return x + 1\n\ndef f(seed):\n    return g(seed) * scale\n"
    base = _hash_of(source, scale=2)
    assert _hash_of(source, scale=np.ones(3)) != _hash_of(source, scale=np.zeros(3))
    assert base == _hash_of(source, scale=2, unrelated=5)
    assert base == _hash_of(source.replace("    return g", '    """Prose."""\n    # comment\n    return g'), scale=2)
    assert base != _hash_of(source, scale=3)
    assert base != _hash_of(source.replace("x + 1", "x + 2"), scale=2)
    assert base != _hash_of(source.replace("* scale", "* scale * 1.5"), scale=2)


def test_the_closure_follows_imports_inside_the_package_only():
    modules = provenance.closure(["touchstone.data", "touchstone.graphs.ultragcn"])
    assert "touchstone.graphs.ultragcn" in modules and "touchstone.data" in modules
    assert not {m.split(".")[1] for m in modules} & provenance.FRAME
    assert all(m.startswith("touchstone.") for m in modules)


def test_comments_and_docstrings_change_no_hash():
    one = 'def f(x):\n    """Doc."""\n    return x  # why\n'
    two = "def f( x ):\n\n    return x\n"
    assert provenance.normalised(one) == provenance.normalised(two)
    assert provenance.normalised(one) != provenance.normalised(two.replace("return x", "return -x"))
    assert provenance.normalised('"""Only prose."""\n') == provenance.normalised("pass\n")


def test_the_record_hash_follows_the_notebooks_code_not_its_prose(root, toy, edit):
    row = toy["toy-method"]
    notebook = row.faces(root)["notebook"]
    base = provenance.method_hash(row.module, notebook)
    edit("notebooks/pinns/toy-method.md", "Prose.", "Other prose.")
    assert provenance.method_hash(row.module, notebook) == base
    edit("notebooks/pinns/toy-method.md", "scale = 3.0", "scale = 4.0")
    assert provenance.method_hash(row.module, notebook) != base


def test_profiles_seeds_and_pick(root):
    quick = Study("toy-method")
    assert quick.quick and quick.seeds == [0] and quick.pick(quick=1, full=2) == 1
    assert "profile quick, seed 0, 2 registered claims" in repr(quick)
    paper = Study("toy-method", profile="paper")
    assert paper.seeds == [0, 1, 2] and paper.pick(quick=1, full=2) == 2 and paper.pick(quick=1, full=2, paper=3) == 3
    with pytest.raises(TouchstoneError, match="unknown profile 'ful': use one of quick, full, paper"):
        Study("toy-method", profile="ful")
    with pytest.raises(TouchstoneError, match="did you mean toy-method"):
        Study("toy-metod")


def test_a_full_study_registers_its_claims_first(root):
    Study("toy-method")
    assert not (root / "catalogue/registered.json").exists()
    Study("toy-method", profile="full")
    assert "pinns/toy-method/bigger" in (root / "catalogue/registered.json").read_text()


def test_no_record_unless_every_claim_is_settled(study, root):
    study.settle("small", error=1e-4)
    with pytest.raises(TouchstoneError, match="claims not settled: bigger; no record was written"):
        study.report()
    assert not (root / "results").exists()


def test_quick_runs_write_no_record_and_give_no_verdict(root, capsys):
    study = Study("toy-method")
    study.settle("small", error=1e-4)
    study.report()
    out = capsys.readouterr().out
    assert "quick run, no evidence" in out and "**reproduced**" not in out and "not measured" in out
    assert not (root / "results").exists()


def test_the_table_shows_verdict_numbers_and_intervals(study, capsys):
    study.settle("bigger", ratio=[3.0, 2.5])
    study.settle("small", error=[1e-4, math.nan])
    study.report()
    out = capsys.readouterr().out
    assert "| **bigger**: it is bigger | a over b | median ≥ 2 | 2.75 [2.5, 3] (n = 2), met | ● **reproduced** |" in out
    assert "inf [0.0001, inf] (n = 2), missed | ○ **not reproduced** |" in out


def test_settle_accepts_series_and_refuses_strangers(study):
    assert study.settle("small", error=pd.Series([1e-4, 1e-5])).verdict == "reproduced"
    with pytest.raises(TouchstoneError, match="not registered: err"):
        study.settle("small", error=1.0, err=1.0)
    with pytest.raises(TouchstoneError, match="no registered claim 'tiny'"):
        study.settle("tiny", error=1.0)


def test_ratio_pairs_seed_by_seed():
    runs = pd.DataFrame({"method": ["a", "a", "b", "b"], "seed": [0, 1, 1, 0], "x": [8.0, 9.0, 3.0, 2.0]})
    assert ratio(runs, "x", over="method", of=("a", "b")).tolist() == [4.0, 3.0]
    assert ratio(runs, "x", over="method", of=("b", "a")).tolist() == [0.25, 1 / 3]


def test_ratio_keeps_other_factors_apart():
    rows = [(m, p, s, 1.0 + (m == "a") + (p == "q") * s) for m in "ab" for p in "pq" for s in (0, 1)]
    runs = pd.DataFrame(rows, columns=["method", "problem", "seed", "x"])
    result = ratio(runs, "x", over="method", of=("a", "b"))
    assert result.index.names == ["problem", "seed"] and result.loc[("q", 1)] == 1.5 and result.loc[("p", 1)] == 2.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.rename(columns={"x": "y"}), "no column 'x'"),
        (lambda r: r[r["method"] != "b"], "no run with method = 'b'"),
        (lambda r: pd.concat([r, r]), "several runs share the same"),
    ],
)
def test_ratio_refuses_what_it_cannot_pair(change, words):
    runs = pd.DataFrame({"method": ["a", "b"], "seed": [0, 0], "x": [8.0, 2.0]})
    with pytest.raises(TouchstoneError, match=words):
        ratio(change(runs), "x", over="method", of=("a", "b"))


def test_the_environment_and_commit_are_told(root):
    about = provenance.environment("cpu")
    assert (
        about["torch"].split(".")[0].isdigit()
        and "+" not in about["torch"]
        and about["cpu"]
        and about["device"] == "cpu"
    )
    assert provenance.commit(root) == ""
    assert 10 < provenance.peak_rss_mb() < 1e5


def test_commit_says_when_the_tree_differs(tmp_path):
    import subprocess

    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y", *arguments],
            check=True,
            capture_output=True,
        )

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    git("init"), git("add", "."), git("commit", "-m", "one")
    clean = provenance.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "src" / "a.py").write_text("2")
    assert provenance.commit(tmp_path) == clean + "+"


def test_two_processes_can_write_the_same_cell(study):
    """An interrupted run's twin may still be writing: the file is whole whoever is last."""
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=study.sweep, args=(measure,), kwargs={"jobs": 1, "method": ["a"]}) for _ in range(2)]
    [job.start() for job in jobs], [job.join() for job in jobs]
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(study.sweep(measure, jobs=1, method=["a"])) == 2


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would display."""
    import IPython.display

    seen = []

    class Handle:
        def update(self, value):
            seen.append(value.data)

    def display(value, display_id=None):
        seen.append(value.data)
        return Handle() if display_id else None

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr("touchstone.study._in_notebook", lambda: True)
    return seen


def test_in_a_notebook_progress_is_one_line_that_vanishes(study, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("TOUCHSTONE_PROGRESS", str(tmp_path / "beacon"))
    study.sweep(measure, jobs=1, method=["a"])
    assert "measure: 0 of 2 cells" in shown[0] and "measure: 2 of 2 cells" in shown[2] and shown[-1] == ""
    assert (tmp_path / "beacon").read_text() == '{"sweep": "measure", "done": 2, "total": 2}'


def test_in_a_notebook_tables_and_sources_are_markdown(study, shown):
    study.show(provenance)
    assert shown[0].startswith('```python\n"""Which code produced a number')
    study.settle("bigger", ratio=[3.0, 4.0])
    study.settle("small", error=1e-4)
    study.report()
    assert shown[1].startswith("| claim | what is measured |")


def test_a_record_goes_where_the_runner_says(study, tmp_path, monkeypatch, root):
    monkeypatch.setenv("TOUCHSTONE_RECORD", str(tmp_path / "pending.json"))
    study.settle("bigger", ratio=[3.0, 4.0])
    study.settle("small", error=1e-4)
    study.report()
    assert (tmp_path / "pending.json").exists() and not (root / "results").exists()


def test_workers_get_the_study_without_its_frames(study):
    study.sweep(measure, jobs=1, method=["a"])
    copy = pickle.loads(pickle.dumps(study))
    assert copy._frames == [] and copy.pick(quick=1, full=2) == 2 and len(study._frames) == 1


def test_classes_count_with_their_methods():
    source = "class A:\n    def go(self):\n        return factor\n\ndef f(seed):\n    return A().go()\n"
    assert _hash_of(source, factor=1) != _hash_of(source, factor=2)
    assert _hash_of(source, factor=1) != _hash_of(source.replace("return factor", "return -factor"), factor=1)


def test_enclosed_values_count():
    def make(factor):
        def inner(seed):
            return factor * seed

        return inner

    assert provenance.function_hash(make(2)) != provenance.function_hash(make(3))
    assert provenance.function_hash(make(2)) == provenance.function_hash(make(2))


def test_containers_of_functions_count_by_their_members():
    def one(x):
        return x + 1

    def two(x):
        return x + 2

    source = "def f(seed):\n    return table['a'](seed)\n"
    one.__module__ = two.__module__ = "__main__"
    one.__qualname__ = two.__qualname__ = "g"
    assert _hash_of(source, table={"a": one}) == _hash_of(source, table={"a": one})
    assert _hash_of(source, table={"a": one}) != _hash_of(source, table={"a": two})
    assert "0x" not in _hash_of(source, table={"a": object()})


def test_tables_of_lambdas_count_by_their_code():
    source = "table = {\n    'a': lambda: 1,\n    'b': lambda: %s,\n}\n\ndef f(seed):\n    return table['a']()\n"
    assert _hash_of(source % "2") == _hash_of(source % "2") != _hash_of(source % "3")


def test_attributes_do_not_count_as_globals_and_tensors_count_by_their_numbers():
    source = "def f(seed):\n    return seed.path + scale.sum()\n"
    assert _hash_of(source, scale=torch.ones(2), path=1) == _hash_of(source, scale=torch.ones(2), path=2)
    assert _hash_of(source, scale=torch.ones(2)) != _hash_of(source, scale=torch.zeros(2))
    script = "import sys; sys.path.insert(0, '.'); import torch; from tests.frame.test_study import _hash_of; "
    script += f"print(_hash_of({source!r}, scale=torch.ones(2)))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert other.stdout.strip() == _hash_of(source, scale=torch.ones(2))


def test_modules_of_the_package_count_with_what_they_import():
    from touchstone.data import hierarchy

    source = "def f(seed):\n    return tool.binary_tree\n"
    assert _hash_of(source, tool=hierarchy) != _hash_of(source, tool=math)
    direct = "def f(seed):\n    return binary_tree(2)\n"
    assert _hash_of(direct, binary_tree=hierarchy.binary_tree) != _hash_of(direct, binary_tree=None)
