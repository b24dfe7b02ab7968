# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""posteriordb on disk: Stan's data blocks and reference draws, read with the standard library.

The database (https://github.com/stan-dev/posteriordb, BSD-3) is not part of the package. Its own
reader on the package index is under the GPL, which is no dependency here; the values are the same.
The folder ``PYRO_BLR_DATA`` names it: ``posterior_database`` or ``posteriordb/posterior_database``
is looked for in that folder and beside it, and the folder may also be the database itself.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..rows import Skipped

PLACES = ("posterior_database", "posteriordb/posterior_database")


def find(folder: Path | None) -> Path:
    """The database that belongs to a folder.

    :raises Skipped: if there is none.
    """
    if folder is None:
        raise Skipped("needs posteriordb; set PYRO_BLR_DATA to its folder, or to one beside it")
    folder = folder.resolve()
    around = [base / place for base in (folder, folder.parent) for place in PLACES]
    for candidate in (folder, *around):
        if (candidate / "posteriors").is_dir():
            return candidate
    raise Skipped(f"needs posteriordb: neither in nor beside {folder} is there {PLACES[0]}")


def read_data(database: Path, name: str) -> dict[str, Any]:
    """Stan's data block of a data set."""
    block: dict[str, Any] = _read(database / "data" / "data" / f"{name}.json.zip")
    return block


def read_draws(database: Path, posterior: str) -> dict[str, Tensor] | None:
    """The reference draws of each scalar parameter, all chains; None where there are none."""
    folder = database / "reference_posteriors" / "draws" / "draws"
    path = folder / f"{posterior}.json.zip"
    if not path.exists():
        return None
    chains = _read(path)
    return {
        name: torch.tensor([chain[name] for chain in chains], dtype=torch.float64).flatten()
        for name in chains[0]
    }


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        return json.loads(archive.read(name))
