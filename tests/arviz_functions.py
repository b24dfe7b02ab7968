# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Run ArviZ's functions on exported fits, and print which of them run.

    python -m tests.arviz_functions [NAME OF A FIT ...]

With whichever ArviZ is installed: before 1.0, from 1.0 on, or its two parts without plots. The exit
status is the number of failures that are not known.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pyro_blr import to_arviz
from pyro_blr.arviz import loo
from tests.arviz_models import CASES

DRAWS = 200
#: Variables with more elements are left out of plots, which have a panel for each.
PANELS = 12

Function = Callable[[Any], Any]


def installed() -> tuple[str, dict[str, Function]]:
    """The version of ArviZ, and its functions, each as a function of an export."""
    if find_spec("arviz") is None:
        import arviz_stats

        return f"arviz-stats {arviz_stats.__version__}", statistics(arviz_stats)
    import arviz as az

    plots = legacy_plots(az) if az.__version__.startswith("0.") else new_plots(az)
    return f"arviz {az.__version__}", {**statistics(az), **plots}


def statistics(az: Any) -> dict[str, Function]:
    """What is computed."""
    found: dict[str, Function] = {
        "summary": lambda t: az.summary(t),
        "loo": lambda t: az.loo(t, pointwise=True),
        "pyro_blr.arviz.loo": loo,
        "compare": lambda t: az.compare({"one": loo(t), "other": loo(t)}),
    }
    if hasattr(az, "loo_approximate_posterior"):
        found["loo_approximate_posterior"] = lambda t: az.loo_approximate_posterior(
            t, *(t["sample_stats"].dataset[n].values.ravel() for n in ("log_p", "log_q"))
        )
        found["psense_summary"] = lambda t: az.psense_summary(t)
    return found


def legacy_plots(az: Any) -> dict[str, Function]:
    """The plots of ArviZ before 1.0."""
    return {
        "plot_posterior": lambda t: az.plot_posterior(t, var_names=small(t)),
        "plot_forest": lambda t: az.plot_forest(t, var_names=small(t)),
        "plot_pair": lambda t: az.plot_pair(t, **pair(t)),
        "plot_ppc": lambda t: az.plot_ppc(t, num_pp_samples=20, random_seed=0),
        "plot_khat": lambda t: az.plot_khat(loo(t)),
    }


def new_plots(az: Any) -> dict[str, Function]:
    """The plots of ArviZ from 1.0 on."""
    return {
        "plot_dist": lambda t: az.plot_dist(t, var_names=small(t)),
        "plot_forest": lambda t: az.plot_forest(t, var_names=small(t)),
        "plot_pair": lambda t: az.plot_pair(t, **pair(t)),
        "plot_trace_dist": lambda t: az.plot_trace_dist(t, var_names=small(t)),
        "plot_ppc_dist": lambda t: az.plot_ppc_dist(t),
        "plot_khat": lambda t: az.plot_khat(loo(t)),
        "plot_prior_posterior": lambda t: az.plot_prior_posterior(t, var_names=small(t, 6)),
    }


def small(tree: Any, most: int = PANELS) -> list[str]:
    """Variables of few elements, and not more than so many in all; at least the smallest one."""
    posterior = tree["posterior"]
    sizes = {n: posterior[n].size // DRAWS for n in posterior.data_vars}
    chosen, total = [], 0
    for name in sorted(sizes, key=sizes.__getitem__):
        total += sizes[name]
        if total <= most or not chosen:
            chosen.append(name)
    return chosen


def pair(tree: Any) -> dict[str, Any]:
    """Two variables, or one of several elements; two elements along its first dim."""
    posterior = tree["posterior"]
    names = sorted(posterior.data_vars, key=lambda n: posterior[n].size)[:2]
    coords = {}
    for name in names:
        for i, dim in enumerate(posterior[name].dims[2:]):
            coords.setdefault(dim, posterior[dim].values[: 1 if i else 2].tolist())
    return {"var_names": names, "coords": coords}


def round_trip(tree: Any) -> None:
    """Write a file, read it, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "fit.nc")
        tree.to_netcdf(path)
        if callable(tree.groups):
            import arviz as az

            found = az.from_netcdf(path)
            assert found.groups() == tree.groups()
            assert all(tree[g].identical(found[g]) for g in tree.groups())
        else:
            import xarray

            with xarray.open_datatree(path) as found:
                assert tree.identical(found)


def outcome(function: Function, tree: Any) -> str:
    """``ok``, or the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pareto k, a panel too many: not what is asked here
            function(tree)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        if find_spec("matplotlib") is not None:
            from matplotlib import pyplot

            pyplot.close("all")
    return "ok"


def is_known(function: str, found: str) -> bool:
    """Whether ArviZ refuses weights that are all the same, as documented."""
    return function in ("loo", "psense_summary") and "All tail values are the same" in found


def without(function: str, fit: str) -> bool:
    """Whether a fit has nothing for a function: a point has no density, one number no pair."""
    return (fit, function) in {
        ("SVI AutoDelta", "loo_approximate_posterior"),
        ("conjugate", "plot_pair"),
    }


def table(names: Sequence[str]) -> tuple[str, list[str]]:
    """A row for each function, with what failed below it."""
    version, functions = installed()
    functions["netCDF round trip"] = round_trip
    failed: list[str] = []
    counts = dict.fromkeys(functions, 0)
    ran = dict.fromkeys(functions, 0)
    for name in names:
        fit, args = CASES[name].fit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = to_arviz(fit, *args, num_samples=DRAWS, seed=0)
        for function, call in functions.items():
            if without(function, name):
                continue
            found = outcome(call, tree)
            ran[function] += 1
            counts[function] += found == "ok"
            if found != "ok" and not is_known(function, found):
                failed.append(f"{function} on {name}: {found}")
        print(f"{name}: done", file=sys.stderr, flush=True)
    rows = [f"| {f} | {counts[f]} of {ran[f]} |" for f in functions]
    return "\n".join([f"| {version} | fits it runs on |", "| --- | --- |", *rows]), failed


def main() -> int:
    """Print the table, and each failure."""
    torch.set_default_dtype(torch.float64)
    if find_spec("matplotlib") is not None:
        import matplotlib

        matplotlib.use("Agg")
    names = sys.argv[1:] or list(CASES)
    text, failed = table(names)
    print(text)
    print(f"\nfits: {', '.join(names)}")
    print("\n".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
