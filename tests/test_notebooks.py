"""nbval on executed notebooks: cells that print machine-independent facts must print them again in the quick profile.

`make test` takes one notebook a part, another one every day, and those whose source changed; `make validate` takes all.
"""

import datetime
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from touchstone.catalogue import PARTS, load_catalogue

ROOT = Path(__file__).resolve().parents[1]


def executed() -> dict[str, list[Path]]:
    """Committed executed notebooks of methods, by part."""
    rows = load_catalogue(ROOT).built()
    pairs = {part: [row.faces(ROOT)["pair"] for row in rows if row.part == part] for part in PARTS}
    return {part: [p for p in paths if p.exists()] for part, paths in pairs.items() if any(p.exists() for p in paths)}


def changed() -> set[str]:
    """Stems of notebooks whose source differs from the previous commit."""
    command = ["git", "-C", str(ROOT), "diff", "--name-only", "HEAD~1", "--", "notebooks"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {Path(line).stem for line in done.stdout.splitlines()}


def sample() -> list[Path]:
    """One a part, rotating with the day, and those changed."""
    day = datetime.date.today().toordinal()
    picked = {paths[day % len(paths)] for paths in executed().values()}
    picked |= {path for paths in executed().values() for path in paths if path.stem in changed()}
    return sorted(picked)


def validate(path: Path) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(ROOT),
        "-p",
        "no:cacheprovider",
        "-q",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout",
        "300",
        str(path),
    ]
    environment = {**os.environ, "TOUCHSTONE_ROOT": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def pytest_generate_tests(metafunc):
    if "notebook" in metafunc.fixturenames:
        everything = sorted(path for paths in executed().values() for path in paths)
        options = metafunc.config
        paths = (
            everything if options.getoption("--nbval-all") else sample() if options.getoption("--nbval-sample") else []
        )
        metafunc.parametrize("notebook", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="session")
def validated(request) -> dict[Path, subprocess.CompletedProcess]:
    """All chosen notebooks, two at a time."""
    everything = sorted(path for paths in executed().values() for path in paths)
    paths = everything if request.config.getoption("--nbval-all") else sample()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(paths, pool.map(validate, paths), strict=True))


def test_facts_are_printed_again(notebook, validated):
    done = validated[notebook]
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
