"""Records of full runs: written whole or not at all, read back with suspicion."""

import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from touchstone.catalogue import Row, TouchstoneError
from touchstone.verdict import judge


class RecordError(TouchstoneError):
    """A record that cannot be trusted; names the file and what to do."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, never a part.

    Raises:
        TouchstoneError: when the folder cannot be written (read-only, full); the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise TouchstoneError(
            f"cannot write {path}: {error.strerror or error}; free space or choose a writable folder (nothing was changed)"
        ) from error


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BoundRecord(_Strict):
    measure: str
    values: list[float | None]
    aggregate: float | None
    interval: list[float | None] | None
    met: bool
    leans: bool


class ClaimRecord(_Strict):
    id: str
    verdict: str
    bounds: list[BoundRecord]


class Metrics(_Strict):
    columns: list[str]
    rows: list[list[Any]]


class Environment(_Strict):
    python: str
    torch: str
    numpy: str
    cpu: str
    threads: int
    device: str


class Record(_Strict):
    """What the last full run of a method measured; the keys stand in this order in the file."""

    id: str
    part: str
    profile: str
    seeds: list[int]
    claims: list[ClaimRecord]
    metrics: Metrics
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    code_hash: str
    commit: str
    environment: Environment


def _encode(value: Any) -> Any:
    """NaN as null and infinities as strings: JSON has neither."""
    if isinstance(value, dict):
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def record_text(record: Record) -> str:
    """The record as JSON, one claim, bound or metrics row a line."""
    plain = _encode(record.model_dump())
    rows = plain["metrics"].pop("rows")
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    # lists of plain values on one line
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
    lines = ",\n".join("   " + json.dumps(row, ensure_ascii=False) for row in rows)
    head, mark, tail = text.partition('"columns": [')
    columns, closing, rest = tail.partition("]")
    return f'{head}{mark}{columns}{closing},\n  "rows": [\n{lines}\n  ]{rest}\n'


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    write_atomic(path, record_text(record))


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: when the file is truncated or does not follow the schema.
    """
    again = f"restore it from version control or run `touchstone run {path.stem} --profile full`"
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: truncated or not JSON ({error}); {again}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise RecordError(f"{path}: key {key}: {first['msg']}; {again}") from None


def check_record(record: Record, row: Row) -> list[str]:
    """What does not follow in a record: claims against the row, and every number against its values."""
    problems = []
    name = f"results/{row.part}/{row.id}.json"
    if (record.id, record.part, record.profile) != (row.id, row.part, "full"):
        problems.append(
            f"{name}: is of {record.part}/{record.id}, profile {record.profile}; expected {row.part}/{row.id}, full"
        )
    have, want = [claim.id for claim in record.claims], [claim.id for claim in row.claims]
    if sorted(have) != sorted(want):
        problems.append(f"{name}: holds claims {', '.join(have) or 'none'}; registered are {', '.join(want) or 'none'}")
    for claim in record.claims:
        if claim.id not in want:
            continue
        try:
            result = judge(row.claim(claim.id), {b.measure: [_number(v) for v in b.values] for b in claim.bounds})
        except TouchstoneError as error:
            problems.append(f"{name}: claim {claim.id}: {error}")
            continue
        if claim.verdict != result.verdict:
            problems.append(f"{name}: claim {claim.id}: says '{claim.verdict}', its values give '{result.verdict}'")
        for stored, bound in zip(
            sorted(claim.bounds, key=lambda b: b.measure), sorted(result.bounds, key=lambda b: b.measure), strict=True
        ):
            again = BoundRecord.model_validate(_encode(vars(bound)))
            if not _same(stored.model_dump(), again.model_dump()):
                problems.append(
                    f"{name}: claim {claim.id}: measure {stored.measure}: aggregate, interval, met or leans do not follow from its values"
                )
    return problems


def _same(a: Any, b: Any) -> bool:
    """Equal, with floats up to rounding across platforms (an aggregate is a handful of operations)."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=1e-9) or (math.isnan(a) and math.isnan(b))
    return a == b


def without_times(record: Record, row: Row) -> dict[str, Any]:
    """A record without what differs from run to run by nature: times, memory, commit, and timed measures."""
    plain = record.model_dump(exclude={"wall_s", "cpu_s", "peak_rss_mb", "commit"})
    timed = {(claim.id, bound.measure) for claim in row.claims for bound in claim.bounds if bound.timed}
    for claim in plain["claims"]:
        if any((claim["id"], bound["measure"]) in timed for bound in claim["bounds"]):
            claim["verdict"] = "timed"
        claim["bounds"] = [bound for bound in claim["bounds"] if (claim["id"], bound["measure"]) not in timed]
    columns = plain["metrics"]["columns"]
    keep = [i for i, column in enumerate(columns) if not column.endswith(("_s", "_ms"))]
    plain["metrics"] = {
        "columns": [columns[i] for i in keep],
        "rows": [[row[i] for i in keep] for row in plain["metrics"]["rows"]],
    }
    return plain
