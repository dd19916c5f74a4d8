"""The rows of the compendium and their registered claims: read, validated, and held against what was registered.

A row lives in ``catalogue/<part>.yml``. A claim is registered once, by its digest in ``catalogue/registered.json``;
after that it changes only through an amendment that keeps the old text and says why.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PARTS = {
    "pinns": "Physics-informed networks",
    "operators": "Operator learning",
    "surrogates": "Surrogates of simulations",
    "dynamics": "Learning dynamical systems",
    "simulation": "Differentiable and learned simulation",
    "symmetry": "Symmetry and equivariance",
    "graphs": "Graphs",
    "weights": "Weights as data",
    "sequences": "Sequences and language",
    "theory": "Theory of deep learning",
    "training": "Training and numerics",
    "representation": "Representation learning",
    "interpretability": "Interpretability",
    "generative": "Generative models",
    "quantum": "Quantum and many-body",
    "signals": "Signals, images and fields",
}
KINDS = ("method", "theory", "application", "benchmark", "solver", "survey")
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class TouchstoneError(Exception):
    """Something the user can mend; the message says what was wrong and what to do."""


class CatalogueError(TouchstoneError):
    """A row or claim that does not follow the schema; names file, row and key."""


def project_root() -> Path:
    """The checkout that holds ``catalogue/``: ``TOUCHSTONE_ROOT``, the package's own checkout, or a parent of here.

    Raises:
        TouchstoneError: when no checkout is found.
    """
    named = os.environ.get("TOUCHSTONE_ROOT")
    candidates = [Path(named)] if named else [Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents]
    for folder in candidates:
        if (folder / "catalogue").is_dir():
            return folder
    raise TouchstoneError(
        f"no folder 'catalogue' in {candidates[0]}: run inside a checkout of Touchstone, or set TOUCHSTONE_ROOT to one"
    )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bound(_Strict):
    """One number that a claim promises: an aggregate over seeds or draws on one side of a threshold."""

    measure: str
    of: str
    aggregate: Literal["median", "mean", "min", "max", "share"]
    at_least: float | None = None
    at_most: float | None = None
    no_effect: float | None = None
    timed: bool = False

    @model_validator(mode="after")
    def _one_side(self) -> "Bound":
        if (self.at_least is None) == (self.at_most is None):
            have = "neither" if self.at_least is None else "both"
            raise ValueError(f"needs exactly one of at_least and at_most, has {have}")
        return self

    @property
    def text(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{self.aggregate} {sign} {limit:g}"


class Amendment(_Strict):
    """Why a registered claim was changed, and the whole claim as it was."""

    why: str = Field(min_length=10)
    was: dict[str, Any]


class Claim(_Strict):
    """What a paper says, as numbers with thresholds."""

    id: str
    says: str
    source: Literal["abstract", "paper"]
    bounds: tuple[Bound, ...] = Field(min_length=1)
    amended: tuple[Amendment, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the claim as first registered (before any amendment)."""
        first = Claim.model_validate(self.amended[0].was) if self.amended else self
        canonical = json.dumps(first.model_dump(exclude={"amended"}), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Row(_Strict):
    """One method of the compendium."""

    id: str
    title: str = Field(min_length=3)
    year: int = Field(ge=1950, le=2100)
    authors: str | None = None
    link: str | None = None
    code: str | None = None
    kind: Literal["method", "theory", "application", "benchmark", "solver", "survey"]
    summary: str
    advice: str | None = None
    needs: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    part: str

    @property
    def module(self) -> str:
        return f"touchstone.{self.part}.{self.id.replace('-', '_')}"

    def faces(self, root: Path) -> dict[str, Path]:
        """Paths of the method's files (whether or not they exist)."""
        name = self.id.replace("-", "_")
        return {
            "row": root / "catalogue" / f"{self.part}.yml",
            "method": root / "src" / "touchstone" / self.part / f"{name}.py",
            "notebook": root / "notebooks" / self.part / f"{self.id}.md",
            "pair": root / "notebooks" / self.part / f"{self.id}.ipynb",
            "record": root / "results" / self.part / f"{self.id}.json",
            "tests": root / "tests" / self.part / f"test_{name}.py",
        }

    def claim(self, claim_id: str) -> Claim:
        for claim in self.claims:
            if claim.id == claim_id:
                return claim
        known = ", ".join(claim.id for claim in self.claims) or "none"
        raise TouchstoneError(f"{self.id} has no registered claim '{claim_id}' (it has: {known})")


class Catalogue:
    """All rows, in the order of parts and files."""

    def __init__(self, rows: list[Row], root: Path):
        self.rows, self.root = rows, root

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def by_id(self) -> dict[str, Row]:
        return {row.id: row for row in self.rows}

    def part(self, part: str) -> list[Row]:
        """Rows of one part; an unknown part suggests the nearest."""
        if part not in PARTS:
            raise TouchstoneError(f"unknown part '{part}'{_nearest(part, PARTS)}")
        return [row for row in self.rows if row.part == part]

    def __getitem__(self, row_id: str) -> Row:
        if row_id not in self.by_id:
            raise TouchstoneError(f"unknown id '{row_id}'{_nearest(row_id, self.by_id)}")
        return self.by_id[row_id]

    def built(self) -> list[Row]:
        """Rows that have a method file."""
        return [row for row in self.rows if row.faces(self.root)["method"].exists()]


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.65)
    return f": did you mean {' or '.join(close)}?" if close else "; `touchstone list` shows all"


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice (plain YAML silently keeps the last)."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{key}' is given twice", node.value[position][0].start_mark
            )
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _key_path(location: tuple, raw: dict) -> str:
    """``claims[allen-cahn].bounds[0].at_least`` from pydantic's location, with ids in place of positions."""
    text, value = "", raw
    for step in location:
        if isinstance(step, int):
            entry = value[step] if isinstance(value, list | tuple) and step < len(value) else None
            name = entry.get("id", step) if isinstance(entry, dict) else step
            text, value = f"{text}[{name}]", entry
        else:
            text, value = f"{text}.{step}" if text else str(step), value.get(step) if isinstance(value, dict) else None
    return text


_FIELDS = {field for model in (Row, Claim, Bound, Amendment) for field in model.model_fields}


def _row(raw: Any, part: str, source: str, position: int) -> Row:
    if not isinstance(raw, dict):
        raise CatalogueError(
            f"{source}, row {position}: is {type(raw).__name__}, expected a mapping that starts '- id:'"
        )
    name = raw.get("id")
    where = f"{source}, row '{name}'" if name else f"{source}, row {position}"
    if "part" in raw:
        raise CatalogueError(f"{where}, key part: unknown key (the part is the file's name)")
    try:
        row = Row.model_validate({**raw, "part": part})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = _key_path(problem["loc"], raw) or "id"
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                message = f"unknown key{_nearest(str(problem['loc'][-1]), _FIELDS).replace('; `touchstone list` shows all', '')}"
            elif problem["type"] == "literal_error":
                message = f"'{problem['input']}' is not one of {problem['ctx']['expected']}"
            elif problem["type"] == "missing":
                message = "is missing"
            elif problem["type"] == "too_short" and key.endswith("bounds"):
                message = "a claim needs at least one bound"
            lines.append(f"{where}, key {key}: {message}")
        raise CatalogueError("\n".join(lines)) from None
    if not ID.fullmatch(row.id):
        raise CatalogueError(f"{where}, key id: write it in lower case words joined by hyphens, like 'causal-pinn'")
    seen: set[str] = set()
    for claim in row.claims:
        if claim.id in seen:
            raise CatalogueError(f"{where}, key claims[{claim.id}].id: given twice in this row")
        measures = [bound.measure for bound in claim.bounds]
        for measure in measures:
            if measures.count(measure) > 1:
                raise CatalogueError(f"{where}, key claims[{claim.id}].bounds: measure '{measure}' is given twice")
        seen.add(claim.id)
    return row


def load_catalogue(root: Path | None = None) -> Catalogue:
    """Read and validate every ``catalogue/<part>.yml``.

    Raises:
        CatalogueError: naming file, row and key of what is wrong.
    """
    root = root or project_root()
    rows: list[Row] = []
    known: dict[str, str] = {}
    for path in sorted(
        (root / "catalogue").glob("*.yml"), key=lambda p: list(PARTS).index(p.stem) if p.stem in PARTS else 99
    ):
        source = f"catalogue/{path.name}"
        if path.stem not in PARTS:
            raise CatalogueError(f"{source}: '{path.stem}' is no part of the compendium{_nearest(path.stem, PARTS)}")
        try:
            raws = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys) or []
        except yaml.YAMLError as error:
            raise CatalogueError(f"{source}: not valid YAML: {error}") from None
        if not isinstance(raws, list):
            raise CatalogueError(f"{source}: expected a list of rows, each starting '- id:'")
        for position, raw in enumerate(raws, 1):
            row = _row(raw, path.stem, source, position)
            if row.id in known:
                raise CatalogueError(f"{source}, row '{row.id}', key id: already used in {known[row.id]}")
            known[row.id] = source
            rows.append(row)
    for row in rows:
        for need in row.needs:
            # a need is another row's id or a phrase; a single word that is nearly an id is a misspelt one
            close = difflib.get_close_matches(need, known, n=1, cutoff=0.85)
            if need not in known and ID.fullmatch(need) and "-" in need and close:
                raise CatalogueError(
                    f"catalogue/{row.part}.yml, row '{row.id}', key needs: '{need}' is no id; did you mean '{close[0]}'?"
                )
    return Catalogue(rows, root)


def registered(root: Path) -> dict[str, str]:
    """Digests of all registered claims, ``part/id/claim`` to digest."""
    path = root / "catalogue" / "registered.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CatalogueError(
            f"{path.relative_to(root)}: not valid JSON ({error}); restore it from version control"
        ) from None


def check_registration(row: Row, digests: dict[str, str]) -> list[str]:
    """What is wrong with a row's claims against the register: changed, dropped or never registered."""
    problems = []
    for claim in row.claims:
        key = f"{row.part}/{row.id}/{claim.id}"
        try:
            digest = claim.digest
        except ValidationError:
            problems.append(f"{key}: amended.was is not a whole claim (id, says, source, bounds)")
            continue
        if key not in digests:
            problems.append(f"{key}: is not registered; `touchstone register {row.id}` before anything is measured")
        elif digests[key] != digest:
            problems.append(
                f"{key}: differs from what was registered; restore it, or add `amended:` with `why` and the old claim in `was`"
            )
    prefix = f"{row.part}/{row.id}/"
    present = {claim.id for claim in row.claims}
    problems += [
        f"{key}: was registered and is gone; put it back"
        for key in digests
        if key.startswith(prefix) and key.removeprefix(prefix) not in present
    ]
    return problems


def register(row: Row, root: Path) -> list[str]:
    """Add the digests of a row's new claims to ``catalogue/registered.json``; return the keys that were added.

    Raises:
        CatalogueError: when a registered claim was changed without an amendment.
    """
    from touchstone.record import write_atomic

    digests = registered(root)
    problems = [p for p in check_registration(row, digests) if "is not registered" not in p]
    if problems:
        raise CatalogueError("\n".join(problems))
    new = {f"{row.part}/{row.id}/{c.id}": c.digest for c in row.claims if f"{row.part}/{row.id}/{c.id}" not in digests}
    if new:
        text = json.dumps(dict(sorted({**digests, **new}.items())), indent=1) + "\n"
        write_atomic(root / "catalogue" / "registered.json", text)
    return list(new)
