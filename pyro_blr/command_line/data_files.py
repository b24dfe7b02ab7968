# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data by name from files: ``.npz``, ``.pt``, ``.json`` and ``.csv``.

Real numbers become tensors of the default dtype, whole ones stay whole; a single number is Python's
own, as the size of a plate must be.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from .. import errors

#: A column of a matrix: ``X.1``, ``X.2``, as in the files of Stan.
OF_MATRIX = re.compile(r"(.+)\.(\d+)")

#: A cell of a whole number.
WHOLE = re.compile(r"\s*[+-]?\d+\s*")


#: What errors of readers mean, where they say it at length or to someone else.
WHY = {
    "UnpicklingError": "it holds something else than tensors, numbers and text",
    "UnicodeDecodeError": "it is no text in UTF-8",
}


@dataclass(frozen=True)
class Data:
    """What was read of a file.

    :param values: by name.
    :param others: the names in it that were not asked for.
    """

    values: Mapping[str, Any]
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that the file holds."""
        return (*self.values, *self.others)


def read_data(path: Path, wanted: Collection[str] | None) -> Data:
    """What a file holds, by name.

    :param wanted: the names that are read; None for all.
    :raises ArgumentError: if it cannot be read.
    """
    if path.suffix.lower() not in READERS:
        raise errors.ArgumentError(
            f"{str(path)!r} is of no kind that is known. Mend: one of {', '.join(READERS)}."
        )
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise errors.ArgumentError(
            f"the file {str(path)!r} is {what}. Mend: name a file of data, from {Path.cwd()}."
        )
    try:
        found = READERS[path.suffix.lower()](path, wanted)
    except errors.ArgumentError:
        raise
    except Exception as error:
        said = WHY.get(type(error).__name__) or (str(error).splitlines() or [""])[0].rstrip(" .")
        raise errors.ArgumentError(
            f"{str(path)!r} cannot be read as {path.suffix}: {type(error).__name__}: {said}. Mend: "
            f"{HINTS[path.suffix.lower()]}."
        ) from error
    values = {name: _plain(value) for name, value in found.values.items()}
    return Data(values, found.others)


def _plain(value: Any) -> Any:
    """Real tensors in the default dtype; a number of its own as Python's."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0:
        return value.item()
    return value.to(torch.get_default_dtype()) if value.is_floating_point() else value


def _of_npz(path: Path, wanted: Collection[str] | None) -> Data:
    if not is_zipfile(path):
        raise errors.ArgumentError(f"{str(path)!r} is no archive of arrays. Mend: {HINTS['.npz']}.")
    with np.load(path, allow_pickle=False) as arrays:
        names = [n for n in arrays.files if wanted is None or n in wanted]
        others = tuple(n for n in arrays.files if n not in names)
        return Data({name: _of_array(name, arrays[name]) for name in names}, others)


def _of_array(name: str, array: Any) -> Tensor:
    """A tensor.

    :raises ArgumentError: for text, dates and whatever else is no number.
    """
    if array.dtype.kind not in "biufc":
        what = "text" if array.dtype.kind in "US" else str(array.dtype)
        raise errors.ArgumentError(
            f"the array {name!r} holds {what}, and no numbers. Mend: save labels as whole numbers, "
            "numpy.unique(labels, return_inverse=True)[1]."
        )
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _of_pt(path: Path, wanted: Collection[str] | None) -> Data:
    found = torch.load(path, weights_only=True, map_location="cpu")
    return _named(found, path, wanted)


def _of_json(path: Path, wanted: Collection[str] | None) -> Data:
    found = _named(json.loads(path.read_text(encoding="utf-8-sig")), path, wanted)
    return replace(found, values={n: _of_list(n, value) for n, value in found.values.items()})


def _of_list(name: str, value: Any) -> Any:
    """A list of numbers, perhaps nested, as a tensor; anything else as it is."""
    if not isinstance(value, list) or _has_text(value):
        return value
    try:
        return torch.tensor(value, dtype=torch.float64 if _has_real(value) else None)
    except (ValueError, TypeError, RuntimeError) as error:
        raise errors.ArgumentError(
            f"{name!r} is a list whose rows have different lengths, or that holds something else "
            "than numbers. Mend: give rows of one length; NaN where a number is missing."
        ) from error


def _leaves(value: Any) -> list[Any]:
    return [leaf for v in value for leaf in _leaves(v)] if isinstance(value, list) else [value]


def _has_text(value: list[Any]) -> bool:
    return any(isinstance(leaf, str | dict) for leaf in _leaves(value))


def _has_real(value: list[Any]) -> bool:
    leaves = _leaves(value)
    return not leaves or any(isinstance(leaf, float) for leaf in leaves)


def _named(found: Any, path: Path, wanted: Collection[str] | None) -> Data:
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise errors.ArgumentError(
            f"{str(path)!r} holds a {type(found).__name__}, and no values by name. Mend: "
            f"{HINTS[path.suffix.lower()]}."
        )
    values = {name: v for name, v in found.items() if wanted is None or name in wanted}
    return Data(values, tuple(name for name in found if name not in values))


def _of_csv(path: Path, wanted: Collection[str] | None) -> Data:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise errors.ArgumentError(f"{str(path)!r} has no rows of data. Mend: {HINTS['.csv']}.")
    head = [name.strip() for name in rows[0]]
    other = next((mark for mark in ";\t|" if all(mark in r[0] for r in rows[:2])), None)
    if len(head) == 1 and other:
        raise errors.ArgumentError(
            f"the columns of {str(path)!r} are told apart by {other!r}. Mend: by commas, as "
            "pandas.read_csv(file, sep=...).to_csv(file, index=False) does."
        )
    for line, row in enumerate(rows, start=1):
        if len(row) != len(head):
            raise errors.ArgumentError(
                f"row {line} of {str(path)!r} has {len(row)} cells, and the first one "
                f"{len(head)}. Mend: give every row as many."
            )
    cells = {name: [row[i] for row in rows[1:]] for i, name in enumerate(head)}
    if len(cells) < len(head):
        raise errors.ArgumentError(
            f"{str(path)!r} has two columns of one name. Mend: give each its own."
        )
    return _columns(cells, wanted)


def _columns(cells: Mapping[str, list[str]], wanted: Collection[str] | None) -> Data:
    """Columns by name, those of a matrix as one."""
    values: dict[str, Tensor] = {}
    matrices: dict[str, dict[int, Tensor]] = {}
    others = []
    for name, own in cells.items():
        part = OF_MATRIX.fullmatch(name)
        if wanted is not None and name in wanted:
            values[name] = _column(name, own)
        elif part and (wanted is None or part[1] in wanted):
            matrices.setdefault(part[1], {})[int(part[2])] = _column(name, own)
        elif wanted is None:
            values[name] = _column(name, own)
        else:
            others.append(name)
    return Data({**values, **{n: _matrix(n, m) for n, m in matrices.items()}}, tuple(others))


def _matrix(name: str, parts: dict[int, Tensor]) -> Tensor:
    """The columns of a matrix in the order of their numbers.

    :raises ArgumentError: naming a column that is missing.
    """
    first = min(min(parts), 1)
    missing = [i for i in range(first, max(parts) + 1) if i not in parts]
    if missing:
        raise errors.ArgumentError(
            f"of the matrix {name!r} the columns {[f'{name}.{i}' for i in sorted(parts)]} are there"
            f", and {', '.join(f'{name}.{i}' for i in missing[:5])} is missing. Mend: number the "
            f"columns from {name}.1 (or {name}.0) without a gap."
        )
    columns = [parts[i] for i in sorted(parts)]
    if len({column.dtype for column in columns}) > 1:
        columns = [column.double() for column in columns]
    return torch.stack(columns, -1)


def _column(name: str, cells: list[str]) -> Tensor:
    if all(WHOLE.fullmatch(cell) for cell in cells):
        return torch.tensor([int(cell) for cell in cells])
    values = []
    for line, cell in enumerate(cells, start=2):
        try:
            values.append(float(cell))
        except ValueError as error:
            raise errors.ArgumentError(
                f"row {line} of the column {name!r} is {cell!r}, which is no number. Mend: write "
                "numbers, nan where one is missing."
            ) from error
    return torch.tensor(values, dtype=torch.float64)


Reader = Callable[[Path, Collection[str] | None], Data]
READERS: dict[str, Reader] = {
    ".npz": _of_npz,
    ".pt": _of_pt,
    ".json": _of_json,
    ".csv": _of_csv,
}
HINTS = {
    ".npz": "save arrays of numbers by name, numpy.savez(file, X=X, y=y)",
    ".pt": "save tensors by name, torch.save({'X': X, 'y': y}, file)",
    ".json": 'write numbers and lists by name, {"y": [1.0, 2.0]}',
    ".csv": "name the columns in the first row, and write a row for each datum",
}
