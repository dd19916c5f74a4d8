"""The command line: counts from files, messages with the way out, exit codes."""

import json
import os
import subprocess
import sys

import pytest

from touchstone import cli
from touchstone.study import Study


@pytest.fixture
def measured(root):
    """The small checkout with a record and no pair."""
    study = Study("toy-method", profile="full", seeds={"full": 3})
    study.settle("bigger", ratio=[3.0, 4.0, 5.0])
    study.settle("small", error=[1.0, 1.0, 1.0])
    study.report()
    return root


def test_list_and_show(measured, capsys):
    assert cli.main(["list"]) == 0 and cli.main(["list", "pinns"]) == 0
    out = capsys.readouterr().out
    assert (
        out.count("toy-method") == 2 and "other-method                      no method yet  2021  Another method" in out
    )
    assert cli.main(["show", "toy-method"]) == 0
    out = capsys.readouterr().out
    assert (
        "claim bigger: reproduced" in out
        and "claim small: not reproduced" in out
        and "- a over b: median ≥ 2: 4" in out
    )
    assert "pair     notebooks/pinns/toy-method.ipynb  (not there)" in out
    assert cli.main(["show", "other-method"]) == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["show", "toy-methd"], "unknown id 'toy-methd': did you mean toy-method"),
        (["run", "toymethod"], "unknown id 'toymethod': did you mean toy-method"),
        (["list", "pin"], "unknown part 'pin'"),
        (["arena", "graps"], "unknown part 'graps': did you mean graphs"),
        (["run"], "nothing to run: name one or more ids, or give --all"),
        (["pair", "zzz"], "unknown id 'zzz'; `touchstone list` shows all"),
    ],
)
def test_wrong_requests_exit_with_two_and_say_what_to_do(root, capsys, command, words):
    assert cli.main(command) == 2
    out, error = capsys.readouterr()
    assert words in error and error.startswith("touchstone: ") and out == ""


def test_an_unknown_profile_is_refused_before_anything_runs(root, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "toy-method", "--profile", "ful"])
    assert stop.value.code == 2
    assert "invalid choice: 'ful' (choose from" in capsys.readouterr().err


def test_status_counts_from_the_files(measured, capsys):
    assert cli.main(["status", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["rows"] == 2 and len(counted["parts"]) == 16
    assert counted["parts"]["pinns"] == {
        "rows": 2,
        "methods": 1,
        "notebooks": 1,
        "records": 1,
        "stale": 0,
        "claims": {"reproduced": 1, "partly": 0, "not reproduced": 1, "not run": 0},
    }
    assert counted["parts"]["graphs"]["rows"] == 0


def test_stale_and_damaged_records_are_counted_and_named(measured, edit, capsys):
    edit("notebooks/pinns/toy-method.md", "scale = 3.0", "scale = 5.0")
    assert cli.main(["status"]) == 0
    assert "stale: toy-method (its code has changed since the full run)" in capsys.readouterr().out
    record = measured / "results/pinns/toy-method.json"
    record.write_text(record.read_text()[:99])
    assert cli.main(["status", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["parts"]["pinns"]
    assert counted["stale"] == 1 and counted["claims"]["not run"] == 2
    assert cli.main(["show", "toy-method"]) == 1
    assert "truncated or not JSON" in capsys.readouterr().err


def test_check_names_every_fault(measured, capsys):
    cli.main(["generate"])
    assert cli.main(["check"]) == 1
    assert "has a record but no executed notebook" in capsys.readouterr().err
    (measured / "results/pinns/toy-method.json").unlink()
    cli.main(["generate"])
    capsys.readouterr()
    assert cli.main(["check"]) == 0
    assert "rows, claims, toc, pairs and records agree" in capsys.readouterr().out
    (measured / "tests/pinns/test_toy_method.py").unlink()
    (measured / "_toc.yml").write_text("old")
    record = measured / "results/pinns/toy-method.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text("{")
    assert cli.main(["check"]) == 1
    error = capsys.readouterr().err
    assert "tests is missing (tests/pinns/test_toy_method.py)" in error and "toy-method.json: truncated" in error
    record.unlink()
    assert cli.main(["check"]) == 1
    assert "_toc.yml: is stale; `touchstone generate` rewrites it" in capsys.readouterr().err


def test_check_refuses_claims_without_method_and_moved_claims(measured, edit, capsys):
    (measured / "src/touchstone/pinns/toy_method.py").unlink()
    edit("catalogue/pinns.yml", "at_least: 2", "at_least: 1")
    assert cli.main(["check"]) == 1
    error = capsys.readouterr().err
    assert (
        "has claims or a notebook but no method file" in error
        and "pinns/toy-method/bigger: differs from what was registered" in error
    )


def test_register_command(root, capsys):
    assert cli.main(["register", "toy-method"]) == 0
    assert "pinns/toy-method/bigger" in capsys.readouterr().out
    assert cli.main(["register", "toy-method"]) == 0
    assert "nothing new to register" in capsys.readouterr().out


def test_new_writes_the_skeleton_once(root, capsys):
    assert cli.main(["new", "other-method"]) == 0
    written = capsys.readouterr().out.split()
    assert written == [
        "src/touchstone/pinns/other_method.py",
        "notebooks/pinns/other-method.md",
        "tests/pinns/test_other_method.py",
        "src/touchstone/pinns/__init__.py",
        "catalogue/pinns.yml",
    ]
    assert "# claims:   register them" in (root / "catalogue/pinns.yml").read_text()
    compile((root / written[0]).read_text(), written[0], "exec")
    from touchstone.catalogue import load_catalogue
    from touchstone.pairs import check_layout

    catalogue = load_catalogue()
    assert check_layout(catalogue["other-method"], root) == [] and len(catalogue) == 2
    assert cli.main(["new", "other-method"]) == 2
    assert "has all its faces already" in capsys.readouterr().err


def test_a_skeleton_loses_nothing_that_is_there(root):
    (root / "src/touchstone/pinns/other_method.py").write_text("mine = 1\n")
    assert cli.main(["new", "other-method"]) == 0
    assert (root / "src/touchstone/pinns/other_method.py").read_text() == "mine = 1\n"


def test_doctor_speaks_of_what_is_missing(root, capsys, monkeypatch):
    assert cli.main(["doctor"]) in (0, 1)
    capsys.readouterr()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1e8})())
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert cli.main(["doctor"]) == 1
    out, error = capsys.readouterr()
    assert (
        "package torch is missing: run `make env`" in error and "0.1 GB free" in error and "cannot be written" in error
    )
    assert "no Chromium" in out


def test_interruption_says_that_nothing_is_lost(root, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_status", interrupted)
    assert cli.main(["status"]) == 130
    assert "the same call resumes" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(root):
    command = f"{sys.executable} -m touchstone.cli list | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr and done.stdout.startswith("pinns")


def test_the_bad_catalogue_stops_every_command(root, edit, capsys):
    edit("catalogue/pinns.yml", "kind: theory", "kind: theorem")
    assert cli.main(["status"]) == 2
    assert "catalogue/pinns.yml, row 'other-method', key kind" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["book"], ["new", "other-method"], ["register", "toy-method"], ["generate"]])
def test_a_full_or_read_only_disk_is_one_message(measured, capsys, monkeypatch, command):
    import errno
    from pathlib import Path

    def refuse(self, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    def no_file(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (measured / "notebooks/pinns/toy-method.ipynb").write_text('{"cells": []}')
    (measured / "catalogue/registered.json").unlink()
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr("tempfile.mkstemp", no_file)
    assert cli.main(command) in (1, 2)
    error = capsys.readouterr().err
    assert "Read-only file system" in error and "writable folder" in error and "Traceback" not in error
