"""This repository: what is committed agrees with itself, and registered claims have never moved."""

import json
import subprocess
from pathlib import Path

import pytest

from touchstone import audit, cli
from touchstone.catalogue import load_catalogue, registered

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def test_everything_agrees(monkeypatch):
    """Claims, registration, toc, README, pairs, layout and records; the list says what does not."""
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    assert audit.check_all(load_catalogue()) == []


def test_no_registered_digest_has_ever_changed_or_gone(monkeypatch):
    """Every digest in the history is the registered one, or that of the present wording of a claim that shows its amendment."""
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    allowed = {key: {digest} for key, digest in registered(ROOT).items()}
    for row in load_catalogue().built():
        for claim in row.claims:
            if claim.amended:
                allowed[f"{row.part}/{row.id}/{claim.id}"].add(claim.model_copy(update={"amended": ()}).digest)
    for commit in git("log", "--format=%H", "--", "catalogue/registered.json").split():
        then = json.loads(git("show", f"{commit}:catalogue/registered.json"))
        changed = [key for key, digest in then.items() if digest not in allowed.get(key, set())]
        assert changed == [], commit


def test_every_verdict_rests_on_enough_values(monkeypatch):
    """At least three seeds or draws, but for bounds that are one number by nature (no value at which nothing is to be seen)."""
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    from touchstone.record import read_record

    catalogue = load_catalogue()
    for row in catalogue.built():
        if not row.faces(ROOT)["record"].exists():
            continue  # listed as not run
        record = read_record(row.faces(ROOT)["record"])
        for claim in record.claims:
            for bound, rule in zip(claim.bounds, row.claim(claim.id).bounds, strict=True):
                assert len(bound.values) >= 3 or rule.no_effect is None, f"{row.id}: {claim.id}: {bound.measure}"


def test_the_command_prints_the_counts(monkeypatch, capsys):
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    assert cli.main(["status", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    parts = counted["parts"].values()
    assert counted["rows"] == 305 == sum(part["rows"] for part in parts)
    assert (
        sum(part["methods"] for part in parts)
        == sum(part["notebooks"] for part in parts)
        >= sum(part["records"] for part in parts)
    )
    assert all(sum(part["claims"].values()) >= 2 * part["methods"] for part in parts)
