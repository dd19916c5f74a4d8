"""The command line: list, show, run, status, arena, dynamics, book, check, new and doctor.

Exit codes: 0 done; 1 something that was asked for failed (a notebook raised, a check found a fault); 2 the request
itself was wrong (unknown id, bad catalogue); 130 interrupted.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from touchstone import __version__, audit, fit_command
from touchstone.catalogue import (
    PARTS,
    Catalogue,
    Row,
    TouchstoneError,
    load_catalogue,
    register,
)
from touchstone.verdict import NOT_RUN, VERDICTS


def _snakemake(root: Path, targets: list[str], jobs: int, force: bool) -> int:
    """Run targets as Snakemake jobs; one that fails stops nobody else."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(root / "workflow" / "Snakefile"),
        "--directory",
        str(root),
        "--profile",
        str(root / "workflow" / "profiles" / "local"),
        "--cores",
        str(jobs),
        "--nolock",
    ]
    if force:
        command.append("--force")
    environment = {**os.environ, "TOUCHSTONE_ROOT": str(root)}
    return subprocess.run([*command, *targets], env=environment, check=False).returncode


def _run_many(catalogue: Catalogue, rows: list[Row], profile: str, arenas: list[str] = ()) -> int:
    root, started = catalogue.root, time.perf_counter()
    logs = {row.id: root / ".cache" / "failed" / row.part / f"{row.id}.log" for row in rows}
    logs |= {f"arena {part}": root / ".cache" / "failed" / part / "arena.log" for part in arenas}
    for log in logs.values():
        log.unlink(missing_ok=True)
    jobs = 1 if profile == "full" else (os.cpu_count() or 1)
    targets = [f".cache/done/{profile}/{row.part}/{row.id}" for row in rows]
    targets += [f".cache/done/quick/{part}/arena" for part in arenas]
    code = _snakemake(root, targets, jobs, force=True)
    failed = {name: log for name, log in logs.items() if log.exists()}
    print(
        f"{len(targets) - len(failed)} of {len(targets)} notebooks done ({profile}), {time.perf_counter() - started:.0f} s"
    )
    for name, log in failed.items():
        last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
        print(f"touchstone: {name} failed: {' '.join(last)}; traceback in {log.relative_to(root)}", file=sys.stderr)
    return 1 if failed or code else 0


def _execute(catalogue: Catalogue, name: str, profile: str, device: str, part: str | None) -> int:
    """One notebook in this process; ``arena`` with a part executes the arena's."""
    from touchstone.notebooks import execute, quick_path, run_notebook

    if name == "arena":
        from touchstone.arena import cells_digest

        catalogue.part(part or "")
        source = catalogue.root / "notebooks" / part / "arena.md"
        # only `touchstone arena` rewrites the published page
        out = source.with_suffix(".ipynb") if profile == "full" else quick_path(catalogue.root, part, "arena")
        about = {"profile": profile, "cells": cells_digest(part, catalogue.root)}
        seconds = run_notebook(source, out, profile=profile, about=about, root=catalogue.root)
    else:
        out, seconds = execute(catalogue, catalogue[name], profile, device)
    print(f"{name}: {profile} run done in {seconds:.1f} s, {out.relative_to(catalogue.root)}")
    return 0


def _run(catalogue: Catalogue, arguments: argparse.Namespace) -> int:
    rows = catalogue.built() if arguments.all else [catalogue[name] for name in arguments.ids]
    if not rows:
        raise TouchstoneError("nothing to run: name one or more ids, or give --all")
    if len(rows) == 1:
        return _execute(catalogue, rows[0].id, arguments.profile, arguments.device, None)
    arenas = [p for p in PARTS if (catalogue.root / "notebooks" / p / "arena.md").exists()] if arguments.all else []
    return _run_many(catalogue, rows, arguments.profile, arenas if arguments.profile == "quick" else [])


def _arena(catalogue: Catalogue, part: str, only_cells: bool) -> int:
    from touchstone.arena import ring, waiting_cells

    catalogue.part(part)
    ring(part)
    cells = waiting_cells(part, catalogue.root)
    print(f"arena {part}: {len(cells)} cells to compute")
    code = 0
    if cells:
        targets = [f".cache/done/arena/{part}/{m}--{p}--{s}" for m, p, s in cells]
        code = _snakemake(catalogue.root, targets, os.cpu_count() or 1, force=True)
    source = catalogue.root / "notebooks" / part / "arena.md"
    if source.exists() and not only_cells and not code:
        code = _execute(catalogue, "arena", "full", "cpu", part)
    return 1 if code else 0


def _list(catalogue: Catalogue, part: str | None) -> int:
    for row in catalogue.part(part) if part else catalogue:
        built = row.faces(catalogue.root)["method"].exists()
        print(f"{row.part:17}{row.id:34}{'' if built else 'no method yet':15}{row.year}  {row.title}")
    return 0


def _show(catalogue: Catalogue, row: Row) -> int:
    from touchstone.record import read_record

    faces = row.faces(catalogue.root)
    print(f"{row.id} ({row.part}, {row.kind}, {row.year})\n{row.title}\n{row.link or 'no link'}\n\n{row.summary}\n")
    verdicts = {c.id: c for c in read_record(faces["record"]).claims} if faces["record"].exists() else {}
    for claim in row.claims:
        print(f"claim {claim.id}: {verdicts[claim.id].verdict if claim.id in verdicts else NOT_RUN}\n  {claim.says}")
        for i, bound in enumerate(claim.bounds):
            value = f": {verdicts[claim.id].bounds[i].aggregate:.4g}" if claim.id in verdicts else ""
            print(f"  - {bound.of}: {bound.text}{value}")
    for name, path in faces.items():
        print(f"{name:9}{path.relative_to(catalogue.root)}{'' if path.exists() else '  (not there)'}")
    return 0


def _status(catalogue: Catalogue, as_json: bool) -> int:
    counted = audit.status(catalogue)
    if as_json:
        print(json.dumps(counted, indent=1))
        return 0
    print(
        f"{'part':18}{'rows':>5}{'methods':>9}{'records':>9}{'stale':>7}   reproduced / partly / not reproduced / not run"
    )
    for part, c in counted["parts"].items():
        verdicts = " / ".join(str(c["claims"][v]) for v in VERDICTS)
        print(f"{part:18}{c['rows']:>5}{c['methods']:>9}{c['records']:>9}{c['stale']:>7}   {verdicts}")
    for name in audit.stale_ids(catalogue):
        print(f"stale: {name} (its code has changed since the full run)")
    return 0


def _doctor(catalogue: Catalogue) -> int:
    problems = audit.machine_problems(catalogue.root)
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        print("note: no Chromium, so the test that opens the book in a browser is skipped")
    for problem in problems:
        print(f"touchstone: {problem}", file=sys.stderr)
    if not problems:
        print(f"touchstone {__version__}: {len(catalogue)} rows, {len(catalogue.built())} methods, nothing wrong found")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="touchstone", description="Run and read the compendium.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str | None) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text) if text else commands.add_parser(name)

    add("list", "all rows, or those of a part").add_argument("part", nargs="?")
    add("show", "one row, its claims and files").add_argument("id")
    run = add("run", "execute notebooks")
    run.add_argument("ids", nargs="*", metavar="ID")
    run.add_argument("--all", action="store_true", help="every method that is built")
    add("status", "counts and verdicts").add_argument("--json", action="store_true")
    arena = add("arena", "compute an arena's missing cells and its page")
    arena.add_argument("part")
    arena.add_argument("--cells", action="store_true", help="cells only, not the page")
    fit_command.add_options(add("dynamics", "learn a system from a time series of your own"))
    add("doctor", "is this machine ready?")
    add("check", "everything that must hold between the files")
    add("pair", "carry prose edits into executed notebooks").add_argument("ids", nargs="*", metavar="ID")
    add("register", "register the claims of a row").add_argument("ids", nargs="+", metavar="ID")
    add("new", "write the five skeleton faces of a row").add_argument("id")
    add("generate", "rewrite the generated files: toc and README table")
    built = add("book", "build the book")
    built.add_argument("--strict", action="store_true", help="warnings are errors")
    execute = add("execute", None)
    execute.add_argument("id")
    execute.add_argument("--part")
    cell = add("cell", None)
    for name in ("part", "method", "problem"):
        cell.add_argument(name)
    cell.add_argument("seed", type=int)
    for command in (run, execute):
        command.add_argument("--profile", default="quick", choices=("quick", "full", "paper"))
        command.add_argument("--device", default="cpu")
    return parser


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "dynamics":
        return fit_command.fit(arguments)
    catalogue = load_catalogue()
    match arguments.command:
        case "list":
            return _list(catalogue, arguments.part)
        case "show":
            return _show(catalogue, catalogue[arguments.id])
        case "run":
            return _run(catalogue, arguments)
        case "execute":
            return _execute(catalogue, arguments.id, arguments.profile, arguments.device, arguments.part)
        case "cell":
            from touchstone.arena import run_cell

            path = run_cell(arguments.part, arguments.method, arguments.problem, arguments.seed, catalogue.root)
            print(path.relative_to(catalogue.root))
            return 0
        case "status":
            return _status(catalogue, arguments.json)
        case "arena":
            return _arena(catalogue, arguments.part, arguments.cells)
        case "doctor":
            return _doctor(catalogue)
        case "check":
            problems = audit.check_all(catalogue)
            for problem in problems:
                print(f"touchstone: {problem}", file=sys.stderr)
            print(f"{len(problems)} problems found" if problems else "rows, claims, toc, pairs and records agree")
            return 1 if problems else 0
        case "pair":
            return _pair(catalogue, arguments.ids)
        case "register":
            for name in arguments.ids:
                print("\n".join(register(catalogue[name], catalogue.root)) or f"{name}: nothing new to register")
            return 0
        case "new":
            from touchstone.skeleton import write_skeleton

            for path in write_skeleton(catalogue, catalogue[arguments.id]):
                print(path.relative_to(catalogue.root))
            return 0
        case "generate":
            from touchstone.pages import write_generated

            for path in write_generated(catalogue):
                print(path.relative_to(catalogue.root))
            return 0
        case "book":
            return _book(catalogue, arguments.strict)
    raise AssertionError(arguments.command)


def _pair(catalogue: Catalogue, ids: list[str]) -> int:
    from touchstone.pairs import pair

    for row in [catalogue[name] for name in ids] or catalogue.built():
        faces = row.faces(catalogue.root)
        if faces["pair"].exists() and pair(faces["notebook"], faces["pair"]):
            print(f"{faces['pair'].relative_to(catalogue.root)}: prose carried over")
    return 0


def _book(catalogue: Catalogue, strict: bool) -> int:
    from touchstone import book

    missing = book.needs_quick_run(catalogue)
    if missing and _run_many(catalogue, missing, "quick"):
        return 1
    page = book.build(catalogue, strict)
    print(f"the book is at {page}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; every error the user can mend is one message on stderr."""
    parsed = _parser().parse_args(arguments)
    try:
        return _dispatch(parsed)
    except TouchstoneError as error:
        print(f"touchstone: {error}", file=sys.stderr)
        return 1 if type(error).__name__ in ("NotebookError", "RecordError") else 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(
            f"touchstone: cannot use{place}: {error.strerror or error}; free space or choose a writable folder",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("touchstone: interrupted; finished cells are kept, the same call resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
