"""Which code produced a number: hashes of a method with what it imports, the machine, the commit."""

import ast
import dis
import functools
import hashlib
import inspect
import os
import platform
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FRAME = {
    "catalogue",
    "study",
    "verdict",
    "record",
    "arena",
    "audit",
    "book",
    "pages",
    "pairs",
    "skeleton",
    "cli",
    "fit_command",
    "plotting",
    "provenance",
    "notebooks",
    "checks",
    "sphinx_offline",
}
PACKAGE = Path(__file__).resolve().parent


def digest(*texts: str) -> str:
    """Sixteen hex digits of the SHA-256 over the texts in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4096)
def normalised(source: str) -> str:
    """Python source without comments, docstrings and layout, so that prose edits change no hash."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _module_file(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def touchstone_imports(source: str) -> set[str]:
    """Modules of this package that a piece of source imports (frame files left out)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {
        name
        for name in found
        if name.startswith("touchstone.") and name.split(".")[1] not in FRAME and _module_file(name)
    }


def closure(modules: Iterable[str]) -> dict[str, Path]:
    """The named modules and all that they import from the package, frame files left out."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _module_file(module)
        if module in found or path is None:
            continue
        found[module] = path
        waiting += touchstone_imports(path.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def code_hash(modules: Iterable[str], *extra: str) -> str:
    """Hash of the modules' closure, comments and docstrings aside, and of extra pieces of source."""
    texts = [f"{name}\n{normalised(path.read_text(encoding='utf-8'))}" for name, path in closure(modules).items()]
    return digest(*texts, *extra)


def notebook_code(markdown: str) -> list[str]:
    """The code cells of a MyST notebook, options stripped."""
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```\s*$", markdown, re.M | re.S)
    return [re.sub(r"\A(---\n.*?\n---\n|(:[\w-]+:[^\n]*\n)+\n?)", "", cell, flags=re.S) for cell in cells]


def method_hash(module: str, notebook: Path) -> str:
    """Hash of everything that decides a method's numbers: module closure, notebook code and what that imports."""
    cells = notebook_code(notebook.read_text(encoding="utf-8")) if notebook.exists() else []
    code = "\n".join(cells)
    return code_hash({module, *touchstone_imports(code)}, *(normalised(cell) for cell in cells))


def function_hash(function: Any) -> str:
    """Hash of a function's source and of the globals it uses: constants by value, functions and classes by source.

    Functions and modules of this package count with everything they import from it.
    """
    seen: set[str] = set()
    modules: set[str] = set()
    pieces: list[str] = []

    def visit(name: str, value: Any) -> None:
        home = getattr(value, "__module__", None) or ""
        if isinstance(value, types.ModuleType):
            if value.__name__.startswith("touchstone."):
                modules.add(value.__name__)
        elif isinstance(value, types.FunctionType | type):
            key = f"{home}.{getattr(value, '__qualname__', name)}" + (name if "<lambda>" in value.__qualname__ else "")
            if key in seen or (
                home != "__main__" and not home.startswith("touchstone.") and home != function.__module__
            ):
                return
            seen.add(key)
            if home.startswith("touchstone."):
                modules.add(home)
            elif isinstance(value, type):
                # a class defined in a notebook has no source of its own that can be found: its members have
                for member, held in vars(value).items():
                    held = getattr(held, "__func__", None) or getattr(held, "fget", None) or held
                    visit(f"{key}.{member}", inspect.unwrap(held) if callable(held) else held)
            else:
                pieces.append(_own_source(value))
                for used in _globals_used(value):
                    if used in value.__globals__:
                        visit(used, value.__globals__[used])
                for used, held in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                    visit(used, held.cell_contents)
        elif _plain(value):
            pieces.append(f"{name}={value!r}")
        elif isinstance(value, dict | list | tuple | set | frozenset):
            # members one by one: the text of a function or object holds its address, which differs from run to run
            members = value.items() if isinstance(value, dict) else enumerate(value)
            for member, held in members:
                visit(f"{name}[{member!r}]" if _plain(member) else name, held)
        elif type(value).__module__.split(".")[0] in ("numpy", "torch", "pandas"):
            import joblib

            # a tensor's own pickle differs between processes, its numbers do not
            plain = value.detach().cpu().numpy() if hasattr(value, "detach") else value
            pieces.append(f"{name}={joblib.hash(plain)}")

    visit(getattr(function, "__name__", "function"), inspect.unwrap(function))
    return code_hash({m for m in modules if m.split(".")[1] not in FRAME}, *sorted(pieces))


def _own_source(function: types.FunctionType) -> str:
    """A function's normalised source; for a lambda, whose source is a piece of a line, its compiled code."""
    if function.__name__ != "<lambda>":
        return normalised(textwrap.dedent(inspect.getsource(function)))
    code = function.__code__
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    return repr((code.co_code.hex(), constants, code.co_names, code.co_varnames))


def _plain(value: Any) -> bool:
    """Text, numbers, and containers of nothing else."""
    if isinstance(value, dict):
        return all(_plain(entry) for pair in value.items() for entry in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    return isinstance(value, str | int | float | bool | type(None))


def _globals_used(function: types.FunctionType) -> list[str]:
    """Names of the globals that a function, and all that are nested in it, look up (attributes do not count)."""
    waiting, names = [function.__code__], set()
    for code in waiting:
        waiting += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        names |= {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return sorted(names)


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, as a record keeps them."""
    import numpy
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numpy": numpy.__version__,
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "device": device,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit(root: Path) -> str:
    """The git commit of the checkout, with ``+`` when ``src`` or ``notebooks`` differ from it; empty outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        dirty = git("status", "--porcelain", "--", "src", "catalogue")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if dirty else "")


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    import resource

    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def single_thread() -> None:
    """One thread a process: runs are repeatable, and two cores mean two jobs."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
