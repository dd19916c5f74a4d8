"""Pairs, execution and what is left when a notebook fails."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from touchstone import audit, cli, notebooks, pairs
from touchstone.notebooks import execute, quick_path
from touchstone.pairs import NotebookError, check_layout, check_pair, pair, read_markdown
from touchstone.record import read_record

PAIR = "notebooks/pinns/toy-method.ipynb"
SOURCE = "notebooks/pinns/toy-method.md"
RECORD = "results/pinns/toy-method.json"


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """One full run of the small notebook, kept as text for the tests that only need its files."""
    return {}


@pytest.fixture
def full(root, toy, executed):
    """The small checkout after a full run."""
    paths = {name: root / name for name in (PAIR, RECORD, "catalogue/registered.json")}
    if not executed:
        execute(toy, toy["toy-method"], "full")
        executed.update({name: path.read_text() for name, path in paths.items()})
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(executed[name])
    return root


def test_a_full_run_writes_pair_and_record(full, toy):
    record = read_record(full / RECORD)
    assert [c.verdict for c in record.claims] == ["reproduced", "reproduced"] and record.seeds == [0, 1, 2, 3]
    notebook = json.loads((full / PAIR).read_text())
    source = read_markdown(full / SOURCE)
    assert ["".join(c["source"]) for c in notebook["cells"]] == [c.source for c in source.cells]
    text = (full / PAIR).read_text()
    assert "papermill" not in text and "<progress" not in text and "profile full, seeds 0 to 3" in text
    counts = [c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook["metadata"]["touchstone"]["profile"] == "full"
    assert check_pair(full / SOURCE, full / PAIR) == []
    assert check_layout(toy["toy-method"], full) == []
    assert audit.status(toy)["parts"]["pinns"]["stale"] == 0


def test_two_full_runs_give_identical_records_but_for_times(full, toy, root):
    from touchstone.record import without_times

    first = read_record(full / RECORD)
    for path in (root / ".cache").rglob("*.pkl"):
        path.unlink()
    execute(toy, toy["toy-method"], "full")
    row = toy["toy-method"]
    assert without_times(read_record(full / RECORD), row) == without_times(first, row)


def test_prose_edits_are_carried_over_and_outputs_kept(full, edit):
    edit(SOURCE, "Prose.", "Better prose.")
    assert "`touchstone pair toy-method` carries it over" in check_pair(full / SOURCE, full / PAIR)[0]
    assert cli.main(["pair", "toy-method"]) == 0
    assert "Better prose." in (full / PAIR).read_text() and "**reproduced**" in (full / PAIR).read_text()
    assert check_pair(full / SOURCE, full / PAIR) == [] and not pair(full / SOURCE, full / PAIR)


def test_code_edits_need_a_new_run(full, edit, capsys):
    edit(SOURCE, "scale = 3.0", "scale = 4.0")
    assert "touchstone run toy-method --profile full" in check_pair(full / SOURCE, full / PAIR)[0]
    before = (full / PAIR).read_text()
    assert cli.main(["pair", "toy-method"]) == 1
    assert "the code of toy-method.md has changed" in capsys.readouterr().err
    assert (full / PAIR).read_text() == before


def test_a_pair_edited_on_the_wrong_side_is_refused_and_kept(full, edit, capsys):
    edit(PAIR, "Prose.", "Edited in Jupyter.")
    before = (full / PAIR).read_text()
    assert "toy-method.md is the side to edit" in check_pair(full / SOURCE, full / PAIR)[0]
    for command in (["pair", "toy-method"], ["run", "toy-method", "--profile", "full"]):
        assert cli.main(command) == 1
        assert "was edited by hand" in capsys.readouterr().err
    assert (full / PAIR).read_text() == before
    assert cli.main(["check"]) == 1


def test_a_truncated_pair_is_named(full):
    (full / PAIR).write_text((full / PAIR).read_text()[:100])
    with pytest.raises(NotebookError, match=r"toy-method.ipynb: truncated"):
        check_pair(full / SOURCE, full / PAIR)


def test_a_notebook_that_raises_keeps_its_traceback_and_the_old_record(full, edit, capsys):
    before = (full / RECORD).read_text(), (full / PAIR).read_text()
    edit(SOURCE, 'print("scale", scale)', "print(undefined_name)")
    assert cli.main(["run", "toy-method", "--profile", "full"]) == 1
    error = capsys.readouterr().err
    assert "toy-method (full): raised NameError: name 'undefined_name' is not defined" in error
    assert "traceback in .cache/failed/pinns/toy-method.log" in error
    assert "NameError" in (full / ".cache/failed/pinns/toy-method.log").read_text()
    assert "NameError" in (full / ".cache/failed/pinns/toy-method.ipynb").read_text()
    assert ((full / RECORD).read_text(), (full / PAIR).read_text()) == before
    edit(SOURCE, "print(undefined_name)", 'print("scale", scale)')
    assert cli.main(["run", "toy-method"]) == 0
    assert not (full / ".cache/failed/pinns/toy-method.log").exists()


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(137)"])
def test_a_kernel_that_dies_is_told_apart_from_an_exception(full, edit, capsys, how):
    before = (full / RECORD).read_text()
    edit(SOURCE, 'print("scale", scale)', f"import os; {how}")
    assert cli.main(["run", "toy-method", "--profile", "full"]) == 1
    assert "its kernel died (killed, or out of memory)" in capsys.readouterr().err
    assert (full / RECORD).read_text() == before


def test_a_notebook_without_report_leaves_no_record(root, edit, capsys):
    edit(SOURCE, "study.report()\n", "")
    assert cli.main(["run", "toy-method", "--profile", "full"]) == 1
    assert "ended without study.report()" in capsys.readouterr().err
    assert not (root / RECORD).exists() and not (root / PAIR).exists()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_full_run_that_is_stopped_resumes_with_no_torn_record(root, edit, kind):
    edit(
        SOURCE,
        '    return {"x"',
        '    import time\n    time.sleep(0.0 if seed < 2 or method == "b" else 60.0 if GATE.exists() else 0.0)\n    return {"x"',
    )
    edit(SOURCE, "scale = 3.0", f"from pathlib import Path\n\nGATE = Path({str(root / 'gate')!r})\nscale = 3.0")
    (root / "gate").write_text("")
    environment = {**os.environ, "TOUCHSTONE_JOBS": "1"}
    command = [sys.executable, "-m", "touchstone.cli", "run", "toy-method", "--profile", "full"]
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    cells = root / ".cache/cells/pinns/toy-method/full"
    for _ in range(300):
        if cells.exists() and len(list(cells.glob("*.pkl"))) == 2:
            break
        time.sleep(0.1)
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.pkl")}
    assert len(kept) == 2
    if kind is signal.SIGKILL:
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=40)
    assert child.returncode != 0
    if kind is signal.SIGINT:
        assert child.returncode == 130 and "the same call resumes" in error
    assert not (root / RECORD).exists() and not (root / PAIR).exists()
    (root / "gate").unlink()
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    assert {name: (cells / name).stat().st_mtime_ns for name in kept} == kept
    assert len(list(cells.glob("*.pkl"))) == 8 and read_record(root / RECORD).claims[0].verdict == "reproduced"


def test_several_notebooks_one_raises_the_other_finishes(root, edit, capfd):
    """Snakemake runs them as jobs: one that fails stops nobody, and the summary names it."""
    edit("catalogue/pinns.yml", "  summary: Waits.\n", "  summary: Waits.\n  claims: []\n")
    source = (root / SOURCE).read_text()
    (root / "src/touchstone/pinns/other_method.py").write_text("")
    (root / "notebooks/pinns/other-method.md").write_text(
        source.replace("study.report()", "raise ValueError('no')")
        .replace('"toy-method"', '"other-method"')
        .replace("study.settle", "list")
        .replace('list("small", error=[1e-4] * 3)', "")
        .replace('list("bigger", ratio=', "list(")
    )
    assert cli.main(["run", "--all"]) == 1
    out, error = capfd.readouterr()
    assert "1 of 2 notebooks done (quick)" in out
    assert "other-method failed: ValueError: no; traceback in .cache/failed/pinns/other-method.log" in error
    assert quick_path(root, "pinns", "toy-method").exists() and not quick_path(root, "pinns", "other-method").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("## First light\n", "", "sections are"),
        (":tags: [nbval-check-output]\n", "", "no cell is tagged nbval-check-output"),
    ],
)
def test_layout_faults_are_named(full, toy, edit, old, new, words):
    edit(SOURCE, old, new)
    if "tags" in old:
        edit(PAIR, '"nbval-check-output"', '"other"')
    assert any(words in p for p in check_layout(toy["toy-method"], full))


def test_heavy_and_broken_pairs_are_named(full, toy):
    notebook = json.loads((full / PAIR).read_text())
    notebook["cells"][1]["outputs"] = [
        {"output_type": "error", "ename": "E", "evalue": "", "traceback": ["x" * 260_000]}
    ]
    notebook["cells"][2]["outputs"] = [{"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}] * 5
    (full / PAIR).write_text(json.dumps(notebook))
    text = " ".join(check_layout(toy["toy-method"], full))
    assert "kB, at most 250" in text and "5 figures, at most 4" in text and "holds an error" in text


def test_a_row_without_method_cannot_run(toy, capsys):
    assert cli.main(["run", "other-method"]) == 1
    assert "'other-method' is not built yet" in capsys.readouterr().err


def test_figures_are_packed_without_changing_what_they_show():
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.plot([0, 1, 0.5], color="#D55E00")
    raw = io.BytesIO()
    figure.savefig(raw, format="png")
    plt.close(figure)
    packed = base64.b64decode(pairs._smaller(base64.b64encode(raw.getvalue()).decode()))
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int) for data in (raw.getvalue(), packed)
    )
    assert len(packed) < len(raw.getvalue()) and before.shape == after.shape
    assert np.abs(before - after).mean() < 1
    again = base64.b64decode(pairs._smaller(base64.b64encode(packed).decode()))
    assert len(again) <= len(packed)


def test_the_terminal_shows_how_far_the_sweeps_are(tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", shown)
    beacon = tmp_path / "beacon.json"
    with notebooks._terminal_progress(beacon, "toy-method"):
        time.sleep(0.6)  # no beacon yet
        beacon.write_text(json.dumps({"sweep": "train_once", "done": 3, "total": 12}))
        time.sleep(0.8)
    assert "toy-method: train_once" in shown.getvalue() and "3/12" in shown.getvalue()


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(NotebookError, match="gone.md does not exist; `touchstone new ID`"):
        read_markdown(tmp_path / "gone.md")
