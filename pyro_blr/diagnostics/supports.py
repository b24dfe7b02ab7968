# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where a guide by hand can draw, against where the model's latents may lie.

No weight sees what the posterior has outside of q's support: a guide that draws half of a normal
law has constant weights, and one that draws its middle has even ones.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import transform_to

from .._compat import site_is_subsample
from ..draws.fitted import Fitted
from ..families.registry import unwrap
from ..guides.natural_guide import NaturalGuide
from ..random_state import same_random_state

#: Values that are tried in the guide's support, of each kind, and the share that may fall outside:
#: rounding moves some onto an edge.
TRIED, SHARE = 256, 0.01
#: How widely they are spread, in units of the unconstrained space.
SPREAD = 3.0


def narrower_supports(
    own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """The sites whose law in the guide leaves out values that the model's may have, with both laws.

    Values are those of the model's law and others all over its support.
    """
    if isinstance(own.guide, NaturalGuide):  # its families have the model's supports
        return {}
    with same_random_state(), torch.no_grad(), poutine.block():
        guide = poutine.trace(own.guide).get_trace(*args, **kwargs)
        model = poutine.trace(poutine.replay(own.model, trace=guide)).get_trace(*args, **kwargs)
        return {
            name: f"the guide's {_law(site)} leaves out values that the model's "
            f"{_law(model.nodes[name])} may have"
            for name, site in guide.nodes.items()
            if _is_drawn(site) and name in model.nodes and _leaves_out(site, model.nodes[name])
        }


def _is_drawn(site: Mapping[str, Any]) -> bool:
    """Whether a site has a law of its own: computed values and points have none."""
    if site["type"] != "sample" or site["is_observed"] or site_is_subsample(site):
        return False
    return not (site["infer"].get("is_auxiliary") or isinstance(unwrap(site["fn"]), Delta))


def _law(site: Mapping[str, Any]) -> str:
    return type(unwrap(site["fn"])).__name__


def _leaves_out(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether values that the model may have are outside of the guide's support."""
    for values in _values(other):
        # A support without a check, or of other shapes, says nothing.
        with suppress(NotImplementedError, ValueError, RuntimeError):
            inside = own["fn"].support.check(values)
            if float((~inside).double().mean()) > SHARE:
                return True
    return False


def _values(site: Mapping[str, Any]) -> list[Tensor]:
    """Values all over the support of the model's law, as far as it has any that are known."""
    law, found = site["fn"], []
    with suppress(NotImplementedError, ValueError, RuntimeError):
        found.append(law.enumerate_support() if law.has_enumerate_support else law.sample((TRIED,)))
    with suppress(NotImplementedError, ValueError, RuntimeError):
        transform = transform_to(law.support)
        centre = transform.inv(site["value"])
        noise = SPREAD * torch.randn(TRIED, *centre.shape, dtype=centre.dtype, device=centre.device)
        found.append(transform(centre + noise))
    return found
