"""The two sides of a notebook: its text source and the executed copy, when they agree, and what of a run is kept."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

from touchstone import provenance
from touchstone.catalogue import Row, TouchstoneError
from touchstone.record import write_atomic

SECTIONS = [
    "In one minute",
    "The idea",
    "The code",
    "First light",
    "Does it hold?",
    "Where it breaks",
    "Use it on your own data",
]
MAX_PAIR_KB, MAX_FIGURES, LARGE_FIGURE_KB = 250, 4, 60


class NotebookError(TouchstoneError):
    """A notebook that raised, whose kernel died, or whose pair was edited on the wrong side."""


def read_markdown(path: Path) -> Any:
    """The text source as a notebook object, with stable cell ids."""
    import jupytext

    try:
        notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="md:myst")
    except FileNotFoundError:
        raise NotebookError(f"{path} does not exist; `touchstone new ID` writes a skeleton") from None
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def read_ipynb(path: Path) -> dict[str, Any]:
    """An executed notebook as it lies on disk."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise NotebookError(f"{path}: truncated or not a notebook ({error}); restore it from version control") from None


def _source(cell: Any) -> str:
    text = cell["source"]
    return ("".join(text) if isinstance(text, list) else text).strip()


def _cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell["cell_type"], _source(cell)) for cell in notebook["cells"]]


def same_cells(one: Any, other: Any) -> bool:
    """Whether two notebooks have the same text and code, outputs aside."""
    return _cells(one) == _cells(other)


def _fingerprint(notebook: Any) -> str:
    return provenance.digest(*(f"{kind}\n{text}" for kind, text in _cells(notebook)))


def check_pair(markdown: Path, pair: Path) -> list[str]:
    """What is out of step between the text source and the executed notebook (empty when nothing is)."""
    name = f"notebooks/{pair.parent.name}/{pair.name}"
    stem = pair.stem
    executed = read_ipynb(pair)
    source = read_markdown(markdown)
    if same_cells(executed, source):
        return []
    kept = executed.get("metadata", {}).get("touchstone", {}).get("source")
    carry, again = f"`touchstone pair {stem}`", f"`touchstone run {stem} --profile full`"
    if stem == "arena":
        carry = again = f"`touchstone arena {pair.parent.name}`"
    if kept != _fingerprint(executed):
        return [
            f"{name}: was edited by hand; the text source {stem}.md is the side to edit: move the edit there, then "
            f"{carry} (prose) or {again} (code)"
        ]
    if _code(executed) == _code(source):
        return [f"{name}: the prose of {stem}.md has changed; {carry} carries it over"]
    return [f"{name}: the code of {stem}.md has changed; {again} executes it again"]


def check_cells(pair: Path, cells: str) -> list[str]:
    """Whether an arena's page was executed on the cells that are there, told by their digest."""
    part = pair.parent.name
    if read_ipynb(pair).get("metadata", {}).get("touchstone", {}).get("cells") == cells:
        return []
    return [f"notebooks/{part}/{pair.name}: shows other cells than there are; `touchstone arena {part}` executes it again"]


def _code(notebook: Any) -> list[str]:
    return [text for kind, text in _cells(notebook) if kind == "code"]


def pair(markdown: Path, pair_path: Path) -> bool:
    """Carry prose edits of the text source into the executed notebook, outputs kept; True when something changed.

    Raises:
        NotebookError: when the notebook was edited by hand, or the code changed and must be executed again.
    """
    problems = check_pair(markdown, pair_path)
    if not problems:
        return False
    if "the prose" not in problems[0]:
        raise NotebookError(problems[0])
    executed, source = read_ipynb(pair_path), read_markdown(markdown)
    outputs = iter(cell for cell in executed["cells"] if cell["cell_type"] == "code")
    for cell in source.cells:
        if cell.cell_type == "code":
            cell.outputs = next(outputs)["outputs"]
    clean(source)
    write(pair_path, source, executed["metadata"]["touchstone"])
    return True


def write(path: Path, notebook: Any, about: dict[str, Any]) -> None:
    """Write an executed notebook, with the note of what produced it and of the source it was made from."""
    # counters by position: nbval wants them, and they must not change from run to run
    for number, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), 1):
        cell["execution_count"] = number
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = number
    notebook["metadata"]["touchstone"] = {**about, "source": _fingerprint(notebook)}
    write_atomic(path, json.dumps(_plain(notebook), indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def clean(notebook: Any) -> None:
    """Drop what changes from run to run: timings, progress lines, the cell papermill injects."""
    notebook["cells"] = [
        c for c in notebook["cells"] if "injected-parameters" not in c.get("metadata", {}).get("tags", [])
    ]
    notebook["metadata"].pop("papermill", None)
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number:02d}"
        tags = cell["metadata"].get("tags", [])
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] != "code":
            continue
        kept = []
        for output in cell["outputs"]:
            html = "".join(output.get("data", {}).get("text/html", "-"))
            if (
                (output["output_type"] == "stream" and output.get("name") == "stderr")
                or html == ""
                or "<progress" in html
            ):
                continue
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _smaller("".join(data["image/png"]))
            if "image/png" in data or "text/markdown" in data:
                data.pop("text/plain", None)
            output.get("metadata", {}).pop("papermill", None)
            kept.append(output)
        cell["outputs"] = kept


def _smaller(png: str) -> str:
    """A figure (base64) with a palette of 256 colours, or of 128 where that is still large, when it saves space: committed notebooks stay small."""
    from PIL import Image

    raw = best = base64.b64decode(png)
    for colours in (256, 128):
        packed = io.BytesIO()
        image = Image.open(io.BytesIO(raw)).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        image.save(packed, format="PNG", optimize=True)
        best = min(best, packed.getvalue(), key=len)
        if len(best) < LARGE_FIGURE_KB * 1000:
            break
    return base64.b64encode(best).decode()


def check_layout(row: Row, root: Path) -> list[str]:
    """Sections, size, figures and errors of a method's notebook."""
    faces, problems = row.faces(root), []
    name = f"notebooks/{row.part}/{row.id}"
    headings = re.findall(r"^## (.+)$", faces["notebook"].read_text(encoding="utf-8"), re.M)
    if [h for h in headings if h in SECTIONS] != SECTIONS:
        problems.append(f"{name}.md: sections are {headings}, expected {SECTIONS}")
    if faces["pair"].exists():
        if faces["pair"].stat().st_size > MAX_PAIR_KB * 1000:
            problems.append(f"{name}.ipynb: {faces['pair'].stat().st_size // 1000} kB, at most {MAX_PAIR_KB}")
        cells = read_ipynb(faces["pair"])["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        figures = sum("image/png" in output.get("data", {}) for output in outputs)
        if figures > MAX_FIGURES:
            problems.append(f"{name}.ipynb: {figures} figures, at most {MAX_FIGURES}")
        if any(output["output_type"] == "error" for output in outputs):
            problems.append(f"{name}.ipynb: holds an error")
        if not any("nbval-check-output" in cell.get("metadata", {}).get("tags", []) for cell in cells):
            problems.append(f"{name}.md: no cell is tagged nbval-check-output")
    return problems
