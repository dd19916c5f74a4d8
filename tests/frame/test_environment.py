"""One set of versions, in three files, and nothing that needs a GPU."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines), (
        "the lock pins exact versions and names no host"
    )
    return dict(line.split("==") for line in lines)


@pytest.fixture(scope="module")
def project() -> list[str]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*table["dependencies"], *(entry for group in table["optional-dependencies"].values() for entry in group)]


def test_pyproject_follows_the_lock(lock, project):
    pinned = dict(entry.split("==") for entry in project)
    assert {name(k): v for k, v in pinned.items()}.items() <= lock.items()


def test_environment_yml_follows_the_lock(lock, project):
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = dict(entry.split("=") for entry in listed if isinstance(entry, str) and "=" in entry)
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert conda == {"python": "3.11", "pytorch-cpu": lock["torch"]}
    assert pip[-1] == "-e ."
    assert sorted(pip[:-1]) == sorted(entry for entry in project if not entry.startswith("torch=="))


def test_no_cuda_package_is_locked(lock):
    assert lock["torch"] == "2.13.0"
    assert [n for n in lock if re.search(r"nvidia|cuda|cudnn|nccl|triton", n)] == []


def test_the_lock_is_complete(lock):
    """Every requirement of every locked package is locked too, so that --no-deps leaves nothing out."""
    from packaging.requirements import Requirement

    missing = []
    for package in lock:
        for line in importlib.metadata.requires(package) or []:
            need = Requirement(line)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            if name(need.name) not in lock and name(need.name) != "pip":
                missing.append(f"{package} needs {need.name}")
    assert missing == []


def test_what_is_installed_is_what_is_locked(lock):
    other = {n: (importlib.metadata.version(n).split("+")[0], v) for n, v in lock.items()}
    assert {n: pair for n, pair in other.items() if pair[0] != pair[1]} == {}
