# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where latents live: with the data, also where a prior in plain numbers is on the CPU.

``dist.Normal(0.0, 1.0)`` is on torch's default device. Draws of it without dims mix with data on an
accelerator, as torch lets numbers of the CPU do; two of them in one block, and draws along a plate,
do not. So latents go to the one accelerator that the call's tensors are on, unless the model then
mixes devices itself, having other tensors on the CPU.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .._compat import site_is_subsample
from ..devices import accelerator_of, is_mix_of_devices


class AtHome(Messenger):
    """Moves the values of latents from the CPU to a device."""

    def __init__(self, home: torch.device) -> None:
        super().__init__()
        self.home = home

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        if msg["is_observed"] or site_is_subsample(msg) or not isinstance(value, Tensor):
            return
        if value.device.type == "cpu":
            msg["value"] = value.to(self.home)


def trace_at_home(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """A trace of a model whose latents are on the device of its data."""
    home = accelerator_of((args, kwargs, model))
    trace = None if home is not None else poutine.trace(model).get_trace(*args, **kwargs)
    if trace is not None:
        values = [s["value"] for s in trace.nodes.values() if s["type"] == "sample"]
        home = accelerator_of(values)
        if home is None or not any(_is_latent_on_the_host(s) for s in trace.nodes.values()):
            return trace
    assert home is not None
    try:
        with AtHome(home):
            return poutine.trace(model).get_trace(*args, **kwargs)
    except RuntimeError as error:
        if not is_mix_of_devices(error):
            raise
    return trace or poutine.trace(model).get_trace(*args, **kwargs)


def _is_latent_on_the_host(site: Mapping[str, Any]) -> bool:
    is_latent = site["type"] == "sample" and not site["is_observed"]
    return is_latent and not site_is_subsample(site) and site["value"].device.type == "cpu"
