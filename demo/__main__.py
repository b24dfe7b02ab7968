# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Run each model once by SVI and once by BLR; print a table and save a picture."""

from pathlib import Path
from time import perf_counter

import pyro
import torch

from .fixed_draws import NUM_SETS, SET_SIZE
from .models import PROBLEMS
from .picture import save
from .svi import run_blr, run_svi, warm_up
from .table import table

PICTURE = Path(__file__).parent / "output" / "demo.png"
#: On tensors this small a second thread costs more than it gives.
NUM_THREADS = 1

INTRODUCTION = f"""\
The same plain Pyro models, one word swapped:
    SVI(model, AutoMultivariateNormal(model), ClippedAdam({{"lr": ..., "lrd": ...}}), Trace_ELBO())
    BLR(model, AutoNatural(model))
float64, {NUM_THREADS} thread. The first use of each engine in the process is not timed.
-ELBO of SVI's guides is evaluated on {NUM_SETS * SET_SIZE} fixed draws, and the optimum of their \
family is found by
L-BFGS on the same draws; +- is one standard error. BLR's -ELBO is exact; its gap is certified.
"""


def main() -> None:
    """The whole demo."""
    start = perf_counter()
    torch.set_num_threads(NUM_THREADS)
    torch.set_default_dtype(torch.float64)
    print(INTRODUCTION, flush=True)
    warm_up()
    results, explanations = [], []
    for make in PROBLEMS:
        problem = make()
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        svi = run_svi(problem)
        pyro.clear_param_store()
        blr, explanation = run_blr(problem)
        results.append((problem, svi, blr))
        explanations.append(f"{problem.title}\n{explanation}\n")
    print()
    print(*explanations, sep="\n")
    print(table(results))
    path = save(results, PICTURE)
    print(f"\nPicture: {path}   ({perf_counter() - start:.0f} s in all)")


if __name__ == "__main__":
    main()
