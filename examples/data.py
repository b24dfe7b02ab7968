# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Real data, read from files that installed packages bring, or that lie here: no network.

| data | from | licence |
| --- | --- | --- |
| Old Faithful | `data/old_faithful.csv` here: no package of the extras has it | facts, 272 rows |
| karate club | `data/karate.csv` here, for the same reason | facts, 78 rows |
| Nile, sunspots | statsmodels | public domain, says statsmodels |
| digits | scikit-learn | UCI, CC BY 4.0 |
| radon | `data/radon.csv` here, which a tutorial reads | facts, 919 rows; from posteriordb, BSD-3 |
| posteriordb | a clone of it that `PYRO_BLR_DATA` names | BSD-3 |

Old Faithful: W. Haerdle, Smoothing Techniques with Implementation in S (Springer 1991), the version
of Azzalini and Bowman, Applied Statistics 39 (1990) 357-365 that R calls `faithful`.

Radon: measured for the Environmental Protection Agency of the United States in houses of Minnesota,
in pCi/L, with the uranium in the soil of a county, in ppm; the version of Gelman and Hill, Data
Analysis Using Regression and Multilevel/Hierarchical Models (2006), that posteriordb calls
`radon_mn`. Counties are numbered in the order of their names; floor 0 is the basement.

Karate club: W. Zachary, An information flow model for conflict and fission in small groups, Journal
of Anthropological Research 33 (1977) 452-473.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.stan_models.database import find, read_data

HERE = Path(__file__).parent / "data"


def old_faithful() -> Tensor:  # shape: (272, 2)
    """Minutes of an eruption of the geyser, and minutes to wait for the next."""
    rows = np.loadtxt(HERE / "old_faithful.csv", delimiter=",", skiprows=1)
    return torch.from_numpy(rows)


def karate() -> tuple[Tensor, Tensor]:
    """Who met whom outside of the club, and which half each member joined when it split.

    # shapes: (34, 34), (34,)
    """
    pairs = np.loadtxt(HERE / "karate.csv", delimiter=",", skiprows=1, dtype=int) - 1
    adjacency = torch.zeros(34, 34, dtype=torch.float64)
    adjacency[pairs[:, 0], pairs[:, 1]] = 1.0
    half = torch.ones(34, dtype=torch.long)
    half[[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 21]] = 0
    return adjacency + adjacency.T, half


def nile() -> tuple[Tensor, Tensor]:
    """Years from 1871 to 1970, and the flow of the Nile at Aswan in 1e8 cubic metres."""
    from statsmodels.datasets import nile as source

    return _columns(source, "year", "volume")


def sunspots() -> tuple[Tensor, Tensor]:
    """Years from 1700 to 2008, and the mean number of sunspots of each."""
    from statsmodels.datasets import sunspots as source

    return _columns(source, "YEAR", "SUNACTIVITY")


def digits() -> tuple[Tensor, Tensor]:
    """Images of handwritten digits, with values from 0 to 16, and what they are.

    # shapes: (1797, 64), (1797,)
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images), torch.from_numpy(labels)


def posterior(name: str) -> dict[str, Any]:
    """The data of a posterior of posteriordb, such as ``three_men1-ldaK2``.

    :raises Skipped: where there is no clone of it.
    """
    folder = os.environ.get("PYRO_BLR_DATA")
    database = find(Path(folder) if folder else None)
    description = json.loads((database / "posteriors" / f"{name}.json").read_text())
    return read_data(database, description["data_name"])


def _columns(source: Any, *names: str) -> tuple[Tensor, ...]:
    """Columns of one of statsmodels' tables."""
    table = source.load_pandas().data
    return tuple(torch.from_numpy(table[n].to_numpy(dtype=np.float64, copy=True)) for n in names)
