"""Execution of notebooks by papermill, and what is kept when one fails."""

import contextlib
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
from touchstone.catalogue import Catalogue, Row
from touchstone.pairs import NotebookError, check_pair, clean, read_ipynb, read_markdown, same_cells, write
from touchstone.record import read_record, write_atomic

CELL_TIMEOUT = {"quick": 600, "full": 3600, "paper": None}


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
        notebook = read_ipynb(after)
        clean(notebook)
        if not same_cells(notebook, read_markdown(markdown)):
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
        write(out, notebook, about)
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
