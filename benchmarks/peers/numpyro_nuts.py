# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro's NUTS (arXiv 1111.4246): long chains for the reference, a short one for scale."""

from typing import Any

import jax
import numpy as np
import numpyro
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_uniform, init_to_value

from .numpyro_twins import TWINS
from .stepping import Clock

#: Warm-up, draws and chains.
SHORT, TINY = (500, 1000, 1), (20, 20, 1)
#: Seconds of the first run, with compilation, beyond which there is no second one without.
ONCE = 20.0
#: Draws that are told to the judge.
TOLD = 4000


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Draws of every site; moments, R-hat and effective sample size of each element."""
    numpyro.enable_x64()
    warmup, samples, chains = (
        TINY if given["tiny"] else given["chains"] if given.get("long") else SHORT
    )
    start = given["start"]
    init = init_to_value(values=start) if start else init_to_uniform
    mcmc = MCMC(
        NUTS(TWINS[given["problem"]], target_accept_prob=0.9, init_strategy=init),
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    cold, warm = Clock(), Clock()
    key = jax.random.PRNGKey(given["seed"] + 1)
    with cold:
        mcmc.run(key, *given["args"], extra_fields=("num_steps", "diverging"))
    if not given.get("long") and cold.seconds < ONCE:
        # The second run has its program.
        with warm:
            mcmc.run(key, *given["args"], extra_fields=("num_steps", "diverging"))
    chained = {n: np.asarray(v) for n, v in mcmc.get_samples(group_by_chain=True).items()}
    extra = mcmc.get_extra_fields()
    values = {n: thinned(v) for n, v in chained.items()}
    least, largest = _diagnosed(chained)
    return {
        "compile": max(0.0, cold.seconds - warm.seconds) if warm.seconds else 0.0,
        "runs": [
            {
                "setting": f"{chains} x ({warmup} + {samples})",
                "ess": least,
                "rhat": largest,
                "divergences": int(np.sum(extra["diverging"])),
                "looks": [
                    {
                        "seconds": warm.seconds or cold.seconds,
                        "gradients": int(np.sum(extra["num_steps"])),
                        "values": values,
                    }
                ],
            }
        ],
    }


def thinned(chains: Any) -> Any:
    """As many draws as are told, of all chains. # shape: (chains, draws, *site)"""
    drawn = chains.reshape(-1, *chains.shape[2:])
    return drawn[:: max(1, len(drawn) // TOLD)]


def _diagnosed(chained: dict[str, Any]) -> tuple[float, float]:
    """The least effective sample size and the largest R-hat."""
    least = min(float(np.min(effective_sample_size(v))) for v in chained.values())
    largest = max(float(np.max(split_gelman_rubin(v))) for v in chained.values())
    return least, largest
