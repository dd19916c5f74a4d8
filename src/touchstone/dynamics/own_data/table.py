"""A time series from a file: its columns as numbers, its time step, and what is wrong with it."""

import difflib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from touchstone.catalogue import TouchstoneError

JITTER = 1e-3  # largest departure of a time step from the median one, as a share of it
TIME_NAMES = ("t", "time")


@dataclass(frozen=True)
class Table:
    """A time series as it was read.

    Attributes:
        name: of the file.
        columns: names of the variables.
        values: their values, in the file's units.
        time: the time column, or the numbers of the rows where there is none.
        time_name: name of the time column, ``None`` where there is none.
    """

    name: str
    columns: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]
    time: Float[np.ndarray, "rows"]
    time_name: str | None

    @property
    def dt(self) -> float:
        """Time step, in the units of the time column; 1 where there is none."""
        return float(np.median(np.diff(self.time)))


def read_table(path: Path, time: str | None = None) -> Table:
    """Read a time series: a header line with names, then a row for each time at a constant step.

    A first column without a name is taken for row numbers and left out.

    Args:
        path: a table separated by commas, semicolons or tabs.
        time: name of the time column; by default a column called ``t`` or ``time``, if there is one.

    Returns:
        the variables, and the time column apart.

    Raises:
        TouchstoneError: saying what is wrong with the file, in which column and line.
    """
    if not path.is_file():
        raise TouchstoneError(f"{path} {'is no file' if path.exists() else 'does not exist'}: name a table of numbers")
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        separator = next((sign for sign in ",;\t" if sign in header), ",")
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, skipinitialspace=True, skip_blank_lines=False)
    except (UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        what = "no text" if isinstance(error, UnicodeDecodeError) else str(error).split("C error: ")[-1]
        raise TouchstoneError(f"{path} is not a table: {what.strip()}") from None
    raw = [name.strip().strip('"') for name in header.split(separator)]
    if all(_is_number(name) for name in raw):
        raise TouchstoneError(f"{path} has no header line: its first line must name the columns")
    if twice := [name for name in dict.fromkeys(raw) if raw.count(name) > 1]:
        raise TouchstoneError(f"{path}: more than one column is called '{twice[0]}'")
    if not isinstance(frame.index, pd.RangeIndex):
        raise TouchstoneError(f"{path}: the lines have more fields than the header has names")
    while len(frame) and frame.iloc[-1].isna().all():  # empty lines at the end
        frame = frame.iloc[:-1]
    if raw[0] == "" and len(raw) > 1:
        frame = frame.iloc[:, 1:]  # the row numbers that pandas writes
    names = [str(name).strip() for name in frame.columns]
    frame.columns = names
    if time is not None and time not in names:
        close = difflib.get_close_matches(time, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise TouchstoneError(f"{path} has no time column '{time}': {hint}")
    time = time or next((name for name in names if name.lower() in TIME_NAMES), None)
    numbers = {name: _numbers(path, name, frame[name]) for name in names}
    clock = numbers.pop(time) if time else np.arange(len(frame), dtype=float)
    if not numbers:
        raise TouchstoneError(f"{path} has no variables besides the time column '{time}'")
    table = Table(path.name, tuple(numbers), np.stack(list(numbers.values()), 1), clock, time)
    if time and len(frame) > 1:
        _check_steps(path, table)
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: Path, name: str, column: pd.Series) -> np.ndarray:
    """A column as numbers; line 1 of the file is the header."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    blank = column.isna() | column.str.strip().str.lower().isin(["", "nan"])
    if (text := np.isnan(values) & ~blank.to_numpy()).any():
        first = int(text.argmax())
        raise TouchstoneError(
            f"{path}, column '{name}', line {first + 2}: '{column.iloc[first]}' is not a number; "
            "leave out columns of text, write decimals with a point and times as numbers"
        )
    if (bad := ~np.isfinite(values)).any():
        raise TouchstoneError(
            f"{path}, column '{name}': {bad.sum()} missing, NaN or infinite values, the first in line {bad.argmax() + 2}; "
            "fill them, or cut the file so that none is left"
        )
    return values


def _check_steps(path: Path, table: Table) -> None:
    """Reject a time column whose step is not constant."""
    steps, dt = np.diff(table.time), table.dt
    where = f"{path}, time column '{table.time_name}'"
    if (back := steps <= 0).any():
        raise TouchstoneError(
            f"{where} does not increase in line {back.argmax() + 3}: sort the rows by time, each once"
        )
    if (off := np.abs(steps - dt) > JITTER * dt).any():
        raise TouchstoneError(
            f"{where}: irregular, the step is {dt:g} for the median row but {steps[off.argmax()]:g} before line "
            f"{off.argmax() + 3}; resample to a constant step"
        )
