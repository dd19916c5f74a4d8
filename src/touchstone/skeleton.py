"""Skeletons of a method's faces, for `touchstone new`."""

from pathlib import Path

from touchstone.catalogue import Catalogue, Row, TouchstoneError
from touchstone.record import write_atomic


def write_skeleton(catalogue: Catalogue, row: Row) -> list[Path]:
    """Write the faces of a row that do not exist yet: method, notebook and tests (row and record come otherwise).

    Raises:
        TouchstoneError: when all of them exist.
    """
    faces, name = row.faces(catalogue.root), row.id.replace("-", "_")
    title = row.title.split(":")[0]
    cells = {
        "method": f'r"""{title}.\n\n{row.summary}\n\nSource: {row.authors or "authors"}, {row.title} ({row.year}), {row.link}.\n"""\n\n'
        "from jaxtyping import Float\nfrom torch import Tensor\n\nfrom touchstone.checks import finite, shaped\n\n\n"
        f'def {name}(x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:\n'
        '    """What it computes, in one line.\n\n    Args:\n        x: what it is, shape (batch, features), units.\n\n    Returns:\n'
        '        what it is.\n\n    Raises:\n        ValueError: when ``x`` is empty or not finite.\n    """\n'
        '    shaped("x", x, ("batch", "features"))\n    finite(x=x)\n    return x\n',
        "notebook": _NOTEBOOK.format(
            title=title, id=row.id, paper=row.title, part=row.part, module=name, summary=row.summary
        ),
        "tests": f'"""Properties that a wrong {row.id} breaks."""\n\nimport pytest\nimport torch\n\n'
        f"from tests.helpers import unchecked\nfrom touchstone.{row.part} import {name}\n\n\n"
        f'def test_rejects_nan():\n    with pytest.raises(ValueError, match="x holds 1 NaN"):\n'
        f'        unchecked({name}.{name})(torch.full((1, 1), float("nan")))\n',
    }
    package = faces["method"].parent / "__init__.py"
    written = []
    for face, text in cells.items():
        if not faces[face].exists():
            write_atomic(faces[face], text)
            written.append(faces[face])
    if not written:
        raise TouchstoneError(f"'{row.id}' has all its faces already; edit them")
    if not package.exists():
        write_atomic(package, "")
        written.append(package)
    if not row.claims:
        marker = f"- id: {row.id}\n"
        text = faces["row"].read_text(encoding="utf-8")
        before, after = text.split(marker)
        block, gap, rest = after.partition("\n- id: ")
        claims = (
            "  # claims:   register them before anything is measured; `touchstone register " + row.id + "`\n"
            "  #   - id: \n  #     says: \n  #     source: paper\n  #     bounds:\n"
            "  #       - {measure: , of: , aggregate: median, at_least: , no_effect: }\n"
        )
        write_atomic(faces["row"], f"{before}{marker}{block.rstrip()}\n{claims}{gap}{rest}")
        written.append(faces["row"])
    return written


_NOTEBOOK = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

{summary}

{{cite:t}}`{id}`: {paper}

<!-- badges -->

```{{code-cell}} ipython3
:tags: [parameters]

profile = "quick"   # papermill sets "full" for the published page
device = "cpu"
```

```{{code-cell}} ipython3
import matplotlib.pyplot as plt
import torch

from touchstone.{part} import {module}
from touchstone.plotting import colours
from touchstone.study import Study, ratio

study = Study("{id}", profile=profile, device=device)
study
```

## In one minute

The problem, the idea, when to reach for it (at most 120 words).

## The idea

## The code

```{{code-cell}} ipython3
study.show({module})
```

## First light

## Does it hold?

```{{code-cell}} ipython3
:tags: [nbval-check-output]

print({module}.{module}(torch.ones(2, 3)).shape)
```

```{{code-cell}} ipython3
study.report()
```

## Where it breaks

## Use it on your own data
"""
