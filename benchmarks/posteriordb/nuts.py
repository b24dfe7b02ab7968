# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Moments to hold a q to: posteriordb's reference draws, NumPyro's NUTS where it has none.

NUTS is Hoffman and Gelman's, *The No-U-Turn Sampler* (arXiv 1111.4246).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..stan import scalars
from ..stan_models import Example
from ..stan_models.database import read_draws
from ..store import Store
from .judge import Moments
from .twins import in_jax, twin_of

CHAINS, WARMUP = 4, 1000
#: Samples of each chain: the next number where R-hat is too large with the last.
SAMPLES = (1000, 4000, 16000)
#: A reference is one where R-hat of no scalar is above this (Vehtari et al., arXiv 1903.08008,
#: ask for 1.01 of rank-normalised R-hat; this is the plain split one).
RHAT = 1.01


def reference(
    example: Example, args: tuple[Any, ...], database: Path | None, store: Store
) -> tuple[Moments, str]:
    """Mean and standard deviation of each of Stan's scalars, and whose they are.

    :param database: posteriordb, or None for synthetic data, which have no reference.
    """
    draws = None if database is None else read_draws(database, example.posterior)
    if draws is not None:
        moments = {name: (float(x.mean()), float(x.std())) for name, x in draws.items()}
        return moments, "reference posteriordb's"
    twin = twin_of(example)
    if database is None or twin is None:
        return {}, "no reference"
    record = store.once("nuts", "result", lambda: nuts(example, twin, args))
    text = f"reference NUTS, R-hat {record['largest_rhat']:.3f}, ESS {record['least_ess']:.0f}"
    if record["largest_rhat"] > RHAT:
        text += " (NOT mixed)"
    return {name: (s["mean"], s["sd"]) for name, s in record["scalars"].items()}, text


def nuts(example: Example, twin: Callable[..., None], args: tuple[Any, ...]) -> dict[str, Any]:
    """Moments, R-hat and effective sample size of each scalar, and what they cost."""
    for samples in SAMPLES:
        record = _nuts(example, twin, args, samples)
        if record["largest_rhat"] <= RHAT:
            break
    return record


def _nuts(
    example: Example, twin: Callable[..., None], args: tuple[Any, ...], samples: int
) -> dict[str, Any]:
    import jax
    from numpyro.infer import MCMC, NUTS

    begin = time.process_time()
    # Dense mass: some of these posteriors are narrow ridges.
    mcmc = MCMC(
        NUTS(twin, dense_mass=True, target_accept_prob=0.9),
        num_warmup=WARMUP,
        num_samples=samples,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(0), *in_jax(args), extra_fields=("num_steps", "diverging"))
    chains = mcmc.get_samples(group_by_chain=True)
    observed = {n: torch.tensor(jax.device_get(c)).flatten(0, 1) for n, c in chains.items()}
    extra = mcmc.get_extra_fields()
    records = {n: _summary(x) for n, x in scalars(example.quantities(observed)).items()}
    return {
        "samples": CHAINS * samples,
        "seconds": time.process_time() - begin,
        "gradients_after_warmup": int(extra["num_steps"].sum()),
        "divergences": int(extra["diverging"].sum()),
        "largest_rhat": max(s["rhat"] for s in records.values()),
        "least_ess": min(s["ess"] for s in records.values()),
        "scalars": records,
    }


def _summary(x: Tensor) -> dict[str, float]:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    chains = x.reshape(CHAINS, -1).numpy()
    return {
        "mean": float(x.mean()),
        "sd": float(x.std()),
        "rhat": float(split_gelman_rubin(chains)),
        "ess": float(effective_sample_size(chains)),
    }
