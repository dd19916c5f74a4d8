"""Notebooks: the jupytext pairs, their execution by papermill, and what is kept when one fails."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from touchstone import provenance
from touchstone.catalogue import Catalogue, Row, TouchstoneError
from touchstone.record import read_record, write_atomic

CELL_TIMEOUT = {"quick": 600, "full": 3600, "paper": None}
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


def _read_ipynb(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise NotebookError(f"{path}: truncated or not a notebook ({error}); restore it from version control") from None


def _source(cell: Any) -> str:
    text = cell["source"]
    return ("".join(text) if isinstance(text, list) else text).strip()


def _cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell["cell_type"], _source(cell)) for cell in notebook["cells"]]


def _fingerprint(notebook: Any) -> str:
    return provenance.digest(*(f"{kind}\n{text}" for kind, text in _cells(notebook)))


def check_pair(markdown: Path, pair: Path) -> list[str]:
    """What is out of step between the text source and the executed notebook (empty when nothing is)."""
    name = f"notebooks/{pair.parent.name}/{pair.name}"
    stem = pair.stem
    executed = _read_ipynb(pair)
    source = read_markdown(markdown)
    if _cells(executed) == _cells(source):
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
    if _read_ipynb(pair).get("metadata", {}).get("touchstone", {}).get("cells") == cells:
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
    executed, source = _read_ipynb(pair_path), read_markdown(markdown)
    outputs = iter(cell for cell in executed["cells"] if cell["cell_type"] == "code")
    for cell in source.cells:
        if cell.cell_type == "code":
            cell.outputs = next(outputs)["outputs"]
    _clean(source)
    _write(pair_path, source, executed["metadata"]["touchstone"])
    return True


def _write(path: Path, notebook: Any, about: dict[str, Any]) -> None:
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


def _clean(notebook: Any) -> None:
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


def quick_path(root: Path, row_part: str, name: str) -> Path:
    """Where a notebook executed in the quick profile lies."""
    return root / ".cache" / "quick" / row_part / f"{name}.ipynb"


def run_notebook(
    markdown: Path,
    out: Path,
    *,
    profile: str,
    about: dict[str, Any],
    root: Path,
    device: str = "cpu",
    record: Path | None = None,
) -> float:
    """Execute a text notebook with papermill; write the executed one, and the record, only if all cells ran.

    Args:
        markdown: text source.
        out: where the executed notebook goes.
        profile: value of the parameter ``profile``.
        about: what to keep in the notebook's metadata (code hash, profile).
        root: project root; the notebook runs there.
        device: value of the parameter ``device``.
        record: where the record goes that the notebook writes, if it is to write one.

    Returns:
        wall seconds.

    Raises:
        NotebookError: when a cell raises or the kernel dies; the partial notebook and the traceback are kept under
            ``.cache/failed``, and nothing else is changed.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    source = read_markdown(markdown)
    if out.exists() and out.parent.parent.name == "notebooks":
        wrong = [p for p in check_pair(markdown, out) if "edited by hand" in p]
        if wrong:
            raise NotebookError(wrong[0])
    failed = root / ".cache" / "failed" / markdown.parent.name
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="touchstone-") as folder:
        before, after = Path(folder) / "before.ipynb", Path(folder) / f"{markdown.stem}.ipynb"
        pending, beacon = Path(folder) / "record.json", Path(folder) / "progress.json"
        nbformat.write(source, before)
        settings = {
            "TOUCHSTONE_ROOT": str(root),
            "TOUCHSTONE_RECORD": str(pending),
            "OMP_NUM_THREADS": "1",
            "TOUCHSTONE_PROGRESS": str(beacon),
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        old = {key: os.environ.get(key) for key in settings}
        os.environ.update(settings)
        try:
            with _interruptible(), _terminal_progress(beacon, markdown.stem):
                papermill.execute_notebook(
                    str(before),
                    str(after),
                    parameters={"profile": profile, "device": device},
                    cwd=str(root),
                    kernel_name="python3",
                    progress_bar=False,
                    execution_timeout=CELL_TIMEOUT[profile],
                    log_output=False,
                    extra_arguments=["--IPKernelApp.log_level=40"],
                )
        except (papermill.PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
            failed.mkdir(parents=True, exist_ok=True)
            if after.exists():
                shutil.copy(after, failed / after.name)
            trace = failed / f"{markdown.stem}.log"
            write_atomic(trace, _untinted(str(error)) + "\n")
            raise NotebookError(
                f"{markdown.stem} ({profile}): {_what_happened(error)}; traceback in {trace.relative_to(root)}"
            ) from None
        finally:
            for key, value in old.items():
                os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        notebook = _read_ipynb(after)
        _clean(notebook)
        if _cells(notebook) != _cells(read_markdown(markdown)):
            raise NotebookError(
                f"{markdown.stem}: {markdown.name} was edited while it ran; run it again (nothing was written)"
            )
        if record is not None:
            if not pending.exists():
                raise NotebookError(
                    f"{markdown.stem}: the notebook ended without study.report(), so there is no record"
                )
            read_record(pending)
            write_atomic(record, pending.read_text(encoding="utf-8"))
        _write(out, notebook, about)
    (failed / f"{markdown.stem}.log").unlink(missing_ok=True)
    (failed / f"{markdown.stem}.ipynb").unlink(missing_ok=True)
    return time.perf_counter() - started


@contextlib.contextmanager
def _interruptible():
    """End the kernel when Ctrl-C comes: an exception raised inside the client's event loop is now and then swallowed there.

    Raises:
        KeyboardInterrupt: once the client has noticed.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main one may set handlers
        yield
        return
    import psutil

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except Exception:
        if stopped:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped:
        raise KeyboardInterrupt


def _what_happened(error: Exception) -> str:
    if type(error).__name__ == "DeadKernelError":
        return "its kernel died (killed, or out of memory); finished cells are kept, run it again"
    if type(error).__name__ == "CellTimeoutError":
        return "a cell ran past the time limit"
    return f"raised {getattr(error, 'ename', 'an error')}: {str(getattr(error, 'evalue', error)).splitlines()[0]}"


def _untinted(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@contextlib.contextmanager
def _terminal_progress(beacon: Path, name: str):
    """Show in the terminal how far the notebook's sweeps are (the notebook itself runs in another process)."""
    if not sys.stderr.isatty():
        yield
        return
    from tqdm import tqdm

    stop = threading.Event()

    def watch() -> None:
        with tqdm(total=1, desc=name, unit="cell", leave=False, file=sys.stderr) as bar:
            while not stop.wait(0.5):
                with contextlib.suppress(OSError, ValueError):
                    state = json.loads(beacon.read_text())
                    bar.total, bar.n = state["total"], state["done"]
                    bar.set_description(f"{name}: {state['sweep']}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def about(row: Row, root: Path, profile: str) -> dict[str, Any]:
    """The notebook's own note of what produced it."""
    return {"profile": profile, "code_hash": provenance.method_hash(row.module, row.faces(root)["notebook"])}


def execute(catalogue: Catalogue, row: Row, profile: str, device: str = "cpu") -> tuple[Path, float]:
    """Execute one method's notebook; the full profile rewrites its pair and record.

    Returns:
        path of the executed notebook, wall seconds.
    """
    root, faces = catalogue.root, row.faces(catalogue.root)
    if not faces["method"].exists() or not faces["notebook"].exists():
        raise NotebookError(f"'{row.id}' is not built yet: it has a row, but no method and notebook")
    full = profile == "full"
    out = faces["pair"] if full else quick_path(root, row.part, row.id)
    seconds = run_notebook(
        faces["notebook"],
        out,
        profile=profile,
        about=about(row, root, profile),
        root=root,
        device=device,
        record=faces["record"] if full else None,
    )
    return out, seconds


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
        cells = _read_ipynb(faces["pair"])["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        figures = sum("image/png" in output.get("data", {}) for output in outputs)
        if figures > MAX_FIGURES:
            problems.append(f"{name}.ipynb: {figures} figures, at most {MAX_FIGURES}")
        if any(output["output_type"] == "error" for output in outputs):
            problems.append(f"{name}.ipynb: holds an error")
        if not any("nbval-check-output" in cell.get("metadata", {}).get("tags", []) for cell in cells):
            problems.append(f"{name}.md: no cell is tagged nbval-check-output")
    return problems
