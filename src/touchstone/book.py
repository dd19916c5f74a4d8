"""The book: its sources staged in a tree of their own, and the build with Jupyter Book."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from touchstone import provenance
from touchstone.catalogue import Catalogue, Row, TouchstoneError
from touchstone.notebooks import quick_path
from touchstone.pages import sources


def needs_quick_run(catalogue: Catalogue) -> list[Row]:
    """Built rows without a full run whose quick run is missing or was made by other code."""
    waiting = []
    for row in catalogue.built():
        faces = row.faces(catalogue.root)
        if faces["pair"].exists() or not faces["notebook"].exists():
            continue
        quick = quick_path(catalogue.root, row.part, row.id)
        try:
            about = json.loads(quick.read_text())["metadata"]["touchstone"]
        except (FileNotFoundError, ValueError, KeyError):
            about = {}
        if about.get("code_hash") != provenance.method_hash(row.module, faces["notebook"]):
            waiting.append(row)
    return waiting


def stage(catalogue: Catalogue) -> Path:
    """Write the staged sources, touching only what changed, and return their folder."""
    folder = catalogue.root / "_build" / "source"
    wanted = sources(catalogue)
    for name, content in wanted.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if str(path.relative_to(folder)) not in wanted:
            path.unlink()
    return folder


def build(catalogue: Catalogue, strict: bool = False) -> Path:
    """Build the book; nothing is done when nothing has changed.

    Args:
        catalogue: the rows.
        strict: warnings are errors.

    Returns:
        path of the front page.

    Raises:
        TouchstoneError: when Jupyter Book fails; its log is kept and named.
    """
    root = catalogue.root
    folder = stage(catalogue)
    code = [path.read_text(encoding="utf-8") for path in sorted((root / "src" / "touchstone").rglob("*.py"))]
    present = provenance.digest(
        *(
            f"{p.relative_to(folder)}" + provenance.digest(p.read_bytes().decode("utf-8", "replace"))
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        ),
        *code,
    )
    out, note = root / "_build" / "html", root / "_build" / "built"
    front = out / "index.html"
    known = note.read_text().split() if note.exists() else []
    # a strict build also serves who asks for any build
    if front.exists() and known[:1] == [present] and (not strict or known[1:] == ["strict"]):
        return front
    note.unlink(missing_ok=True)
    log = root / "_build" / "build.log"
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(folder),
        "--path-output",
        str(root),
        "--keep-going",
    ]
    if strict:
        # a strict build looks at every page, not only at those that changed
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
        command += ["--warningiserror", "--all"]
    environment = {**os.environ, "TOUCHSTONE_ROOT": str(root), "PYTHONWARNINGS": "ignore"}
    with log.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    if done.returncode or not front.exists():
        told = [line for line in text.splitlines() if re.search(r"WARNING|ERROR|Error", line)][
            :20
        ] or text.splitlines()[-20:]
        raise TouchstoneError("the book did not build:\n" + "\n".join(told) + f"\nwhole log: {log}")
    note.write_text(f"{present} {'strict' if strict else ''}")
    return front
