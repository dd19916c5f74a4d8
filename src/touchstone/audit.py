"""What the files say of the project's state: counts, stale records, broken promises between the files, a lacking machine."""

import importlib.util
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from touchstone import provenance
from touchstone.catalogue import PARTS, Catalogue, check_registration, registered
from touchstone.verdict import NOT_RUN, VERDICTS


def status(catalogue: Catalogue) -> dict[str, Any]:
    """Counts of rows, faces, stale records and verdicts a part, from the files."""
    from touchstone.record import RecordError, read_record

    parts: dict[str, Any] = {}
    for part in PARTS:
        rows = catalogue.part(part)
        count: Counter = Counter()
        claims = Counter(dict.fromkeys(VERDICTS, 0))
        for row in rows:
            faces = row.faces(catalogue.root)
            count["methods"] += faces["method"].exists()
            count["notebooks"] += faces["notebook"].exists()
            verdicts = {}
            if faces["record"].exists():
                count["records"] += 1
                try:
                    record = read_record(faces["record"])
                    verdicts = {claim.id: claim.verdict for claim in record.claims}
                    count["stale"] += record.code_hash != provenance.method_hash(row.module, faces["notebook"])
                except RecordError:
                    count["stale"] += 1
            claims.update(verdicts.get(claim.id, NOT_RUN) for claim in row.claims)
        parts[part] = {
            "rows": len(rows),
            **{k: count[k] for k in ("methods", "notebooks", "records", "stale")},
            "claims": {verdict: claims[verdict] for verdict in VERDICTS},
        }
    return {"rows": len(catalogue), "parts": parts}


def stale_ids(catalogue: Catalogue) -> list[str]:
    """Ids whose record was measured by other code than the present."""
    from touchstone.record import read_record

    stale = []
    for row in catalogue.built():
        faces = row.faces(catalogue.root)
        if faces["record"].exists():
            if read_record(faces["record"]).code_hash != provenance.method_hash(row.module, faces["notebook"]):
                stale.append(row.id)
    return stale


def check_all(catalogue: Catalogue) -> list[str]:
    """Everything that must hold between the files: claims, toc, README, pairs, layout and records."""
    from touchstone import pages
    from touchstone.arena import cells_digest
    from touchstone.pairs import check_cells, check_layout, check_pair
    from touchstone.record import RecordError, check_record, read_record

    problems: list[str] = []
    digests = registered(catalogue.root)
    for row in catalogue:
        problems += check_registration(row, digests)
        faces = row.faces(catalogue.root)
        there = {name: path.exists() for name, path in faces.items()}
        if not there["method"]:
            if row.claims or there["notebook"]:
                problems.append(f"{row.part}/{row.id}: has claims or a notebook but no method file")
            continue
        problems += [
            f"{row.part}/{row.id}: {name} is missing ({faces[name].relative_to(catalogue.root)})"
            for name in ("notebook", "tests")
            if not there[name]
        ]
        if len(row.claims) < 2:
            problems.append(f"{row.part}/{row.id}: {len(row.claims)} registered claims, at least 2 are needed")
        if there["notebook"]:
            problems += check_layout(row, catalogue.root)
        if there["pair"]:
            problems += check_pair(faces["notebook"], faces["pair"])
        if there["record"]:
            try:
                problems += check_record(read_record(faces["record"]), row)
            except RecordError as error:
                problems.append(str(error))
            if not there["pair"]:
                problems.append(f"{row.part}/{row.id}: has a record but no executed notebook; run it in full again")
    for part in PARTS:
        arena = catalogue.root / "notebooks" / part / "arena.md"
        if arena.exists() and (page := arena.with_suffix(".ipynb")).exists():
            problems += check_pair(arena, page) + check_cells(page, cells_digest(part, catalogue.root))
    return problems + pages.check_generated(catalogue)


def machine_problems(root: Path) -> list[str]:
    """What this machine lacks to run the project: Python, packages, disk, write permission."""
    problems = []
    if sys.version_info[:2] != (3, 11):
        problems.append(f"Python {sys.version.split()[0]}: the records were made with 3.11")
    for package in ("torch", "jupyter_book", "jupytext", "papermill", "snakemake", "nbval", "itables"):
        if importlib.util.find_spec(package) is None:
            problems.append(f"package {package} is missing: run `make env`")
    if importlib.util.find_spec("torch"):
        import torch

        if torch.version.cuda and not torch.cuda.is_available():
            problems.append(f"torch {torch.__version__} carries CUDA, but there is no GPU: install the CPU build")
    free = shutil.disk_usage(root).free / 1e9
    if free < 2:
        problems.append(f"{free:.1f} GB free: a full set of runs needs about 2")
    if not os.access(root, os.W_OK):
        problems.append(f"{root} cannot be written")
    return problems
