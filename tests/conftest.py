"""Fixtures shared by the tests: a small checkout of its own to break, and the repository."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from touchstone.catalogue import PARTS, load_catalogue

# small tensors: more threads only get in each other's way
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]

ROW = """\
- id: toy-method
  title: A toy method
  year: 2020
  authors: A. Author, B. Writer
  link: https://arxiv.org/abs/2001.00001
  kind: method
  summary: A toy.
  needs: [other-method, "a phrase"]
  claims:
    - id: bigger
      says: it is bigger
      source: paper
      bounds:
        - {measure: ratio, of: a over b, aggregate: median, at_least: 2, no_effect: 1}
    - id: small
      says: it is small
      source: abstract
      bounds:
        - {measure: error, of: error, aggregate: max, at_most: 1.0e-3}
- id: other-method
  title: Another method
  year: 2021
  kind: theory
  summary: Waits.
"""

NOTEBOOK = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Toy

{cite:t}`toy-method`

<!-- badges -->

```{code-cell} ipython3
:tags: [parameters]

profile = "quick"
device = "cpu"
```

```{code-cell} ipython3
import touchstone.checks
from touchstone.study import Study, ratio

study = Study("toy-method", profile=profile, device=device, seeds={"quick": 1, "full": 4})
study
```

## In one minute

Prose.

## The idea

## The code

```{code-cell} ipython3
study.show(touchstone.checks)
```

## First light

## Does it hold?

```{code-cell} ipython3
scale = 3.0


def measure(seed, method):
    return {"x": (scale if method == "a" else 1.0) * (1 + 0.01 * seed)}


runs = study.sweep(measure, method=["a", "b"])
study.settle("bigger", ratio=ratio(runs, "x", over="method", of=("a", "b")))
study.settle("small", error=[1e-4] * 3)
study.report()
```

```{code-cell} ipython3
:tags: [nbval-check-output]

print("scale", scale)
```

## Where it breaks

## Use it on your own data
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A checkout with one built row and one that waits, used by every call of the test."""
    for part in PARTS:
        path = tmp_path / "book" / "parts" / f"{part}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {part}\n\n<!-- generated: rows -->\n")
    for folder in ("catalogue", "src/touchstone/pinns", "notebooks/pinns", "tests/pinns"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(REPOSITORY / "workflow", tmp_path / "workflow")
    shutil.copy(REPOSITORY / "_config.yml", tmp_path)
    (tmp_path / "catalogue" / "pinns.yml").write_text(ROW)
    (tmp_path / "src/touchstone/pinns/toy_method.py").write_text('"""Toy."""\n')
    (tmp_path / "tests/pinns/test_toy_method.py").write_text("def test_toy():\n    assert True\n")
    (tmp_path / "notebooks/pinns/toy-method.md").write_text(NOTEBOOK)
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    monkeypatch.delenv("TOUCHSTONE_RECORD", raising=False)
    return tmp_path


@pytest.fixture
def toy(root):
    """The small checkout's catalogue."""
    return load_catalogue(root)


@pytest.fixture
def edit(root):
    """Replace text in a file of the small checkout."""

    def replace(path: str, old: str, new: str) -> None:
        file = root / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old!r}"
        file.write_text(text.replace(old, new))

    return replace


def pytest_addoption(parser):
    parser.addoption(
        "--nbval-sample", action="store_true", help="also run nbval on one notebook a part (rotating) and those changed"
    )
    parser.addoption("--nbval-all", action="store_true", help="also run nbval on every executed notebook")
