"""A study: registered claims, seeds, cached sweeps, and the record of a full run. The API that every notebook uses."""

import contextlib
import hashlib
import inspect
import itertools
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from touchstone import plotting, provenance
from touchstone.catalogue import TouchstoneError, load_catalogue, project_root, register
from touchstone.record import Record, write_record
from touchstone.verdict import ClaimResult, judge

PROFILES = ("quick", "full", "paper")
CELL_FORMAT = "2"  # raise it when the layout of a cell on disk changes


def _scalar(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, str | bool | int | float | np.generic)
        or (isinstance(value, torch.Tensor) and value.ndim == 0)
    )


def _run_cell(path: Path, function: Callable, arguments: dict[str, Any], seeds: int | list[int]) -> dict[str, Any]:
    """Run one cell in this process with one thread and fixed seeds, and keep it on disk."""
    provenance.single_thread()
    first = seeds[0] if isinstance(seeds, list) else seeds
    torch.manual_seed(first)
    np.random.seed(first)  # noqa: NPY002  libraries that still use the global generator are repeatable too
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        returned = function(**arguments, **({"seeds": seeds} if isinstance(seeds, list) else {"seed": seeds}))
    except Exception as error:
        raise RuntimeError(f"cell {arguments} with seed {seeds} failed: {type(error).__name__}: {error}") from error
    rows = [dict(row) for row in ([returned] if isinstance(returned, Mapping) else returned)]
    share = len(rows) or 1
    times = {"cpu_s": (time.process_time() - cpu) / share, "wall_s": (time.perf_counter() - wall) / share}
    for row in rows:
        for name, value in list(row.items()):
            if isinstance(value, torch.Tensor):
                row[name] = value.item() if value.ndim == 0 else value.detach().cpu().numpy()
            elif isinstance(value, np.generic):
                row[name] = value.item()
        if isinstance(seeds, list) and "seed" not in row:
            raise TouchstoneError(
                f"{function.__name__}: takes `seeds`, so every row that it returns needs a key 'seed'"
            )
    # factors first, then the seed, then what was measured: `ratio` and readers rely on this order
    table = [
        {**arguments, "seed": row.pop("seed", seeds), **row, **{k: row.get(k, v) for k, v in times.items()}}
        for row in rows
    ]
    cell = {
        "rows": table,
        "cpu_s": times["cpu_s"] * share,
        "wall_s": times["wall_s"] * share,
        "peak_rss_mb": provenance.peak_rss_mb(),
    }
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(pickle.dumps(cell))
    os.replace(temporary, path)
    return cell


def _numbered_cell(number: int, *arguments: Any) -> tuple[int, dict[str, Any]]:
    return number, _run_cell(*arguments)


def _load_cell(path: Path) -> dict[str, Any] | None:
    """A finished cell from disk; a damaged file is set aside and counts as not there."""
    try:
        return pickle.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except Exception as error:
        print(f"touchstone: cell {path.name} is damaged ({error}); running it again", file=sys.stderr)
        path.unlink(missing_ok=True)
        return None


class Study:
    """One method's experiment, from registered claims to its record.

    Args:
        id: the method's id in the catalogue.
        profile: ``quick`` (plumbing, no evidence), ``full`` (the published verdicts) or ``paper``.
        device: torch device on which the notebook trains.
        seeds: number of seeds for each profile.

    Raises:
        TouchstoneError: for an unknown id or profile, or claims that differ from what was registered.
    """

    def __init__(self, id: str, profile: str = "quick", device: str = "cpu", seeds: Mapping[str, int] | None = None):
        self._started = time.perf_counter()
        if profile not in PROFILES:
            raise TouchstoneError(f"unknown profile '{profile}': use one of {', '.join(PROFILES)}")
        self.root = project_root()
        self.row = load_catalogue(self.root)[id]
        self.profile, self.device = profile, device
        if profile == "full":
            register(self.row, self.root)
        count = {"quick": 1, "full": 3, "paper": 3, **(seeds or {})}[profile]
        self.seeds = list(range(count))
        self._frames: list[tuple[str, pd.DataFrame]] = []
        self._reused = {"cpu_s": 0.0, "wall_s": 0.0}
        self._spent_cpu, self._peak = 0.0, 0.0
        self._results: dict[str, ClaimResult] = {}
        provenance.single_thread()
        plotting.use_style()

    def __getstate__(self) -> dict[str, Any]:
        # worker processes need the profile and the seeds, not the frames gathered so far
        return {**self.__dict__, "_frames": []}

    def __repr__(self) -> str:
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        return f"Study({self.row.id}): profile {self.profile}, {seeds}, {len(self.row.claims)} registered claims"

    @property
    def quick(self) -> bool:
        """True in the quick profile."""
        return self.profile == "quick"

    def pick(self, quick: Any, full: Any, paper: Any = None) -> Any:
        """The value for the present profile (``paper`` falls back to ``full``)."""
        return {"quick": quick, "full": full, "paper": full if paper is None else paper}[self.profile]

    def sweep(
        self, function: Callable, /, *, seeds: Sequence[int] | None = None, jobs: int | None = None, **factors: Iterable
    ) -> pd.DataFrame:
        """Run a function for every combination of factors and every seed; finished cells are kept on disk.

        Args:
            function: called as ``function(seed=…, **factors)``, returns a dict or a list of dicts; or, if it takes
                ``seeds``, once a combination with all seeds, returning a list of dicts with a key ``seed``.
            seeds: seeds to use instead of the study's.
            jobs: parallel processes; by default one in the quick profile, one a core otherwise; 1 for timings.
            **factors: lists of values, named as the function's arguments.

        Returns:
            tidy frame: factors, seed, what the function returned, and ``cpu_s``, ``wall_s`` of the cell.
        """
        names = inspect.signature(function).parameters
        batched = "seeds" in names
        unknown = [f for f in factors if f not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values())]
        if unknown or not (batched or "seed" in names):
            raise TouchstoneError(f"{function.__name__}: takes no argument {', '.join(unknown) or 'seed or seeds'}")
        seed_list = list(self.seeds if seeds is None else seeds)
        combinations = [
            dict(zip(factors, values, strict=True)) for values in itertools.product(*map(list, factors.values()))
        ]
        calls = [(c, s) for c in combinations for s in ([seed_list] if batched else seed_list)]
        code = provenance.digest(
            provenance.function_hash(function), provenance.code_hash([self.row.module]), torch.__version__, CELL_FORMAT
        )
        folder = self.root / ".cache" / "cells" / self.row.part / self.row.id / self.profile
        paths = [
            folder / f"{hashlib.sha256(repr((code, self.device, sorted(c.items()), s)).encode()).hexdigest()[:24]}.pkl"
            for c, s in calls
        ]
        cells = {i: cell for i, path in enumerate(paths) if (cell := _load_cell(path)) is not None}
        jobs = jobs or (1 if self.quick else int(os.environ.get("TOUCHSTONE_JOBS", os.cpu_count() or 1)))
        for cell in cells.values():
            self._reused["cpu_s"] += cell["cpu_s"]
            self._reused["wall_s"] += cell["wall_s"] / jobs
        waiting = [i for i in range(len(calls)) if i not in cells]
        with _progress(len(calls), len(cells), function.__name__) as advance:
            if jobs == 1 or len(waiting) <= 1:
                for i in waiting:
                    cells[i] = _run_cell(paths[i], function, *calls[i])
                    advance()
            else:
                from joblib import Parallel, delayed

                with _quiet_workers():
                    pool = Parallel(n_jobs=jobs, return_as="generator_unordered", max_nbytes=None, batch_size=1)
                    for i, cell in pool(delayed(_numbered_cell)(i, paths[i], function, *calls[i]) for i in waiting):
                        cells[i] = cell
                        advance()
        self._spent_cpu += sum(cells[i]["cpu_s"] for i in waiting) if jobs > 1 and len(waiting) > 1 else 0.0
        self._peak = max([self._peak, *(cell["peak_rss_mb"] for cell in cells.values())])
        frame = pd.DataFrame([row for i in range(len(calls)) for row in cells[i]["rows"]])
        self._frames.append((function.__name__, frame))
        return frame

    def settle(self, claim: str, **measures: Any) -> ClaimResult:
        """Judge a registered claim on measured values.

        Args:
            claim: its id.
            **measures: for each measure that the claim's bounds name, one value a seed or draw (or a single number).

        Raises:
            TouchstoneError: for an unknown claim, or measures other than the registered ones.
        """
        values = {
            name: np.atleast_1d(np.asarray(value, dtype=float)).ravel().tolist() for name, value in measures.items()
        }
        result = judge(self.row.claim(claim), values)
        self._results[claim] = result
        return result

    def report(self) -> None:
        """Show the claims table and, in the full profile, write the record.

        Raises:
            TouchstoneError: when a registered claim has not been settled.
        """
        missing = [claim.id for claim in self.row.claims if claim.id not in self._results]
        if missing and self.profile != "quick":
            raise TouchstoneError(f"{self.row.id}: claims not settled: {', '.join(missing)}; no record was written")
        _show(self.claims_table())
        if self.profile == "full":
            write_record(
                Path(os.environ.get("TOUCHSTONE_RECORD") or self.row.faces(self.root)["record"]), self._record()
            )

    def claims_table(self) -> str:
        """The settled claims as a Markdown table."""
        lines = [
            "| claim | what is measured | registered bound | measured [95 % interval] | verdict |",
            "|---|---|---|---|---|",
        ]
        for claim in self.row.claims:
            result = self._results.get(claim.id)
            for i, bound in enumerate(claim.bounds):
                measured = "not measured"
                if result:
                    b = result.bounds[i]
                    interval = f" [{b.interval[0]:.3g}, {b.interval[1]:.3g}]" if b.interval else ""
                    measured = f"{b.aggregate:.3g}{interval} (n = {len(b.values)})"
                    if self.profile == "full":
                        measured += ", met" if b.met else (", leans" if b.leans else ", missed")
                verdict = ""
                if i == 0:
                    verdict = "quick run, no evidence"
                    if self.profile != "quick" and result:
                        verdict = f"{plotting.VERDICT_GLYPHS[result.verdict]} **{result.verdict}**"
                says = f"**{claim.id}**: {claim.says}" if i == 0 else ""
                cells = [says, bound.of, bound.text, measured, verdict]
                lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        return "\n".join(lines)

    def show(self, module: Any) -> None:
        """Show a module's source, as it is imported."""
        _show(f"```python\n{inspect.getsource(module).rstrip()}\n```")

    def _record(self) -> Record:
        frames = []
        for name, frame in self._frames:
            kept = frame[[c for c in frame.columns if frame[c].map(_scalar).all()]].copy()
            kept.insert(0, "experiment", name)
            frames.append(kept)
        metrics = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        rows = [
            [
                None if isinstance(v, float) and np.isnan(v) else (v.item() if isinstance(v, np.generic) else v)
                for v in row
            ]
            for row in metrics.astype(object).itertuples(index=False)
        ]
        claims = [
            {"id": r.id, "verdict": r.verdict, "bounds": [vars(b) for b in r.bounds]}
            for r in (self._results[claim.id] for claim in self.row.claims)
        ]
        faces = self.row.faces(self.root)
        return Record(
            id=self.row.id,
            part=self.row.part,
            profile=self.profile,
            seeds=self.seeds,
            claims=claims,
            metrics={"columns": [str(c) for c in metrics.columns], "rows": rows},
            wall_s=time.perf_counter() - self._started + self._reused["wall_s"],
            cpu_s=time.process_time() + self._spent_cpu + self._reused["cpu_s"],
            peak_rss_mb=max(self._peak, provenance.peak_rss_mb()),
            code_hash=provenance.method_hash(self.row.module, faces["notebook"]),
            commit=provenance.commit(self.root),
            environment=provenance.environment(self.device),
        )


def ratio(runs: pd.DataFrame, measure: str, over: str, of: tuple[Any, Any]) -> pd.Series:
    """Paired ratio of a measure between two levels of a factor.

    Args:
        runs: frame from :meth:`Study.sweep`.
        measure: column with the numbers.
        over: column that tells the two levels apart.
        of: numerator and denominator level.

    Returns:
        ratio for every seed (and every other factor that varies), indexed by them.

    Raises:
        TouchstoneError: when a level or column is missing, or runs cannot be paired one to one.
    """
    for column in (measure, over, "seed"):
        if column not in runs:
            raise TouchstoneError(
                f"ratio: the runs have no column '{column}' (they have: {', '.join(map(str, runs.columns))})"
            )
    for level in of:
        if level not in set(runs[over]):
            raise TouchstoneError(f"ratio: no run with {over} = {level!r}")
    both = runs[runs[over].isin(of)]
    others = [
        c
        for c in both.columns[: list(both.columns).index("seed")]
        if c not in (over, measure) and both[c].map(_scalar).all() and both[c].nunique() > 1
    ]
    index = [*others, "seed"]
    if both.duplicated([over, *index]).any():
        raise TouchstoneError(f"ratio: several runs share the same {', '.join([over, *index])}; select them first")
    wide = both.pivot(index=index, columns=over, values=measure)
    return wide[of[0]] / wide[of[1]]


def _show(markdown: str) -> None:
    """Markdown in a notebook, plain text elsewhere."""
    if _in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(markdown)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


@contextlib.contextmanager
def _quiet_workers():
    """Workers inherit one thread and the project's root."""
    before = {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "TOUCHSTONE_ROOT")}
    os.environ.update(OMP_NUM_THREADS="1", TOUCHSTONE_ROOT=str(project_root()))
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


@contextlib.contextmanager
def _progress(total: int, done: int, name: str):
    """A progress bar that leaves nothing behind: in the notebook one updated line, in the terminal tqdm.

    ``TOUCHSTONE_PROGRESS`` names a file that the runner reads to show the same progress in its own terminal.
    """
    state = {"done": done}
    beacon = os.environ.get("TOUCHSTONE_PROGRESS")

    def announce() -> None:
        if beacon:
            with contextlib.suppress(OSError):
                Path(beacon).write_text(json.dumps({"sweep": name, "done": state["done"], "total": total}))

    if _in_notebook():
        from IPython.display import HTML, display

        def line() -> HTML:
            return HTML(
                f"<progress max='{total}' value='{state['done']}'></progress> {name}: {state['done']} of {total} cells"
            )

        handle = display(line(), display_id=True)

        def advance() -> None:
            state["done"] += 1
            handle.update(line())
            announce()

        announce()
        yield advance
        handle.update(HTML(""))
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=name, unit="cell", leave=False, file=sys.stderr, disable=None) as bar:

        def advance() -> None:
            state["done"] += 1
            bar.update()
            announce()

        yield advance
