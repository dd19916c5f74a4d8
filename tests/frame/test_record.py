"""Records: written whole or not at all, and refused when they do not follow from their values."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from touchstone.catalogue import TouchstoneError
from touchstone.record import (
    RecordError,
    check_record,
    read_record,
    record_text,
    without_times,
    write_atomic,
    write_record,
)
from touchstone.study import Study


@pytest.fixture
def record_path(root):
    """A record written by a small study in the full profile."""
    study = Study("toy-method", profile="full", seeds={"full": 3})
    study.sweep(
        lambda seed, method: {"x": 1.0 + seed, "none": math.nan, "big": math.inf, "array": [1]},
        jobs=1,
        method=["a", "b"],
    )
    study.settle("bigger", ratio=[3.0, 4.0, math.nan])
    study.settle("small", error=[1e-4, 2e-4, math.inf])
    study.report()
    return root / "results/pinns/toy-method.json"


def test_a_record_survives_writing_and_reading(record_path, toy):
    record = read_record(record_path)
    assert record_text(record) == record_path.read_text()
    assert check_record(record, toy["toy-method"]) == []
    assert list(json.loads(record_path.read_text())) == [
        "id",
        "part",
        "profile",
        "seeds",
        "claims",
        "metrics",
        "wall_s",
        "cpu_s",
        "peak_rss_mb",
        "code_hash",
        "commit",
        "environment",
    ]
    assert record.metrics.columns == ["experiment", "method", "seed", "x", "none", "big", "cpu_s", "wall_s"]
    assert record.metrics.rows[0][:6] == ["<lambda>", "a", 0, 1.0, None, "inf"]
    bigger, small = record.claims
    assert bigger.bounds[0].values == [3.0, 4.0, None] and bigger.verdict == "not reproduced"
    assert small.bounds[0].aggregate == math.inf


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            '"verdict": "not reproduced"',
            '"verdict": "reproduced"',
            "says 'reproduced', its values give 'not reproduced'",
        ),
        ("[3.0, 4.0, null]", "[3.0, 4.0, 5.0]", "do not follow from its values"),
        ('"met": false', '"met": true', "do not follow from its values"),
        ('"id": "bigger"', '"id": "larger"', "holds claims larger, small; registered are bigger, small"),
        ('"measure": "ratio"', '"measure": "quotient"', "missing: ratio"),
        ('"profile": "full"', '"profile": "quick"', "profile quick; expected pinns/toy-method, full"),
    ],
)
def test_a_hand_edited_record_is_noticed(record_path, toy, old, new, words):
    text = record_path.read_text()
    assert old in text
    record_path.write_text(text.replace(old, new, 1))
    assert any(words in p for p in check_record(read_record(record_path), toy["toy-method"]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t[: len(t) // 2], "truncated or not JSON"),
        (lambda t: t.replace('"seeds"', '"seed"'), "key seeds: Field required"),
        (lambda t: t.replace('"wall_s": ', '"wall_s": "slow" or '), "truncated or not JSON"),
        (lambda t: t.replace('"met": false', '"met": "maybe"'), "key claims.0.bounds.0.met"),
        (lambda t: "", "truncated or not JSON"),
    ],
)
def test_a_damaged_record_is_named_with_the_way_out(record_path, damage, words):
    record_path.write_text(damage(record_path.read_text()))
    with pytest.raises(RecordError, match="toy-method.json") as error:
        read_record(record_path)
    assert words in str(error.value) and "touchstone run toy-method --profile full" in str(error.value)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_or_read_only_folder_loses_nothing(record_path, monkeypatch, code, words, call):
    before = record_path.read_text()
    record = read_record(record_path)
    record.seeds = [7]

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(TouchstoneError, match=words) as error:
        write_record(record_path, record)
    assert str(record_path) in str(error.value) and "nothing was changed" in str(error.value)
    monkeypatch.undo()
    assert record_path.read_text() == before
    assert [p.name for p in record_path.parent.iterdir()] == ["toy-method.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TouchstoneError, match="Not a directory|File exists"):
        write_atomic(tmp_path / "file" / "record.json", "x")


def test_sigkill_while_writing_leaves_the_old_or_the_new(tmp_path):
    path = tmp_path / "record.json"
    old, new = "old\n" * 10, "new\n" * 400_000
    write_atomic(path, old)
    script = f"from pathlib import Path\nfrom touchstone.record import write_atomic\nprint('ready', flush=True)\nwhile True: write_atomic(Path({str(path)!r}), 'new\\n' * 400_000)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.15)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.read_text() in (old, new)


def test_times_and_timed_measures_are_left_out_of_comparisons(record_path, toy, edit):
    from touchstone.catalogue import load_catalogue

    one, two = read_record(record_path), read_record(record_path)
    two.wall_s, two.commit, two.metrics.rows[0][6] = 99.0, "other", 99.0
    two.claims[0].bounds[0].values = [1.0, 1.0, 1.0]
    row = toy["toy-method"]
    assert without_times(one, row) != without_times(two, row)
    edit("catalogue/pinns.yml", "at_least: 2, no_effect: 1", "at_least: 2, no_effect: 1, timed: true")
    row = load_catalogue()["toy-method"]
    assert without_times(one, row) == without_times(two, row)
    two.metrics.rows[0][3] = -1.0
    assert without_times(one, row) != without_times(two, row)
