# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Moments to hold a q to: posteriordb's reference draws, NumPyro's NUTS where it has none.

NUTS is Hoffman and Gelman's, *The No-U-Turn Sampler* (arXiv 1111.4246).
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..stan import scalars
from ..stan_models import Example
from ..stan_models.database import read_draws
from .judge import Moments
from .store import Store

CHAINS, WARMUP, SAMPLES = 4, 1000, 1000
#: A reference is one where R-hat of no scalar is above this (Vehtari et al., arXiv 1903.08008,
#: ask for 1.01 of rank-normalised R-hat; this is the plain split one).
RHAT = 1.01


def reference(
    example: Example, args: tuple[Any, ...], database: Path | None, store: Store
) -> Moments:
    """Mean and standard deviation of each of Stan's scalars; of the synthetic data none."""
    if database is None:
        return {}
    draws = read_draws(database, example.posterior)
    if draws is not None:
        return {name: (float(x.mean()), float(x.std())) for name, x in draws.items()}
    record = store.once("nuts", "result", lambda: nuts(example, args))
    return {name: (s["mean"], s["sd"]) for name, s in record["scalars"].items()}


def nuts(example: Example, args: tuple[Any, ...]) -> dict[str, Any]:
    """Moments, R-hat and effective sample size of each scalar, and what they cost."""
    import jax
    from numpyro.infer import MCMC, NUTS

    from .numpyro_svi import in_jax, twin

    begin = time.process_time()
    # Dense mass: some of these posteriors are narrow ridges.
    kernel = NUTS(twin(example), dense_mass=True, target_accept_prob=0.9)
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=SAMPLES,
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
        "seconds": time.process_time() - begin,
        "gradients_after_warmup": int(extra["num_steps"].sum()),
        "divergences": int(extra["diverging"].sum()),
        "largest_rhat": max(s["rhat"] for s in records.values()),
        "least_ess": min(s["ess"] for s in records.values()),
        "scalars": records,
    }


def _summary(x: Tensor) -> dict[str, float]:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    chains = x.reshape(CHAINS, SAMPLES).numpy()
    return {
        "mean": float(x.mean()),
        "sd": float(x.std()),
        "rhat": float(split_gelman_rubin(chains)),
        "ess": float(effective_sample_size(chains)),
    }
