# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where latents live: with the data, also where a prior in plain numbers is on the CPU.

``dist.Normal(0.0, 1.0)`` is on torch's default device. Draws of it without dims mix with data on an
accelerator, as torch lets numbers of the CPU do; two of them in one block, and draws along a plate,
do not. So latents go to the one accelerator that the call's tensors are on, unless the model then
mixes devices itself, having other tensors on the CPU.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .._compat import site_is_subsample
from ..devices import accelerator_of, is_mix_of_devices
from ..lifting.recorded import realised

Result = TypeVar("Result")


class AtHome(Messenger):
    """Brings the constants of every distribution to a device, and with them its draws.

    It must be the first to hear of a site: ``AtHome(home)(model)``, other messengers around it.
    """

    def __init__(self, home: torch.device) -> None:
        super().__init__()
        self.home = home

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        moved: list[Tensor] = []

        def there(constant: Tensor) -> Tensor:
            if constant.device.type != "cpu":
                return constant
            moved.append(constant)
            return constant.to(self.home)

        fn = realised(msg["fn"], {}, there)
        if moved:
            msg["fn"] = fn


def run_at_home(
    run: Callable[[Callable[..., Any]], Result],
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    values: Callable[[Result], Any] = lambda _: (),
) -> Result:
    """A run of a model whose latents are on the device of its data.

    :param run: runs a function that stands for the model; perhaps twice.
    :param values: the values of the sites of a run, which show where data are that no argument is.
    """
    home = accelerator_of((args, kwargs, model))
    plain = None
    if home is None:
        plain = run(model)
        seen = values(plain)
        home = accelerator_of(seen)
        if home is None or all(v.device == home for v in seen if isinstance(v, Tensor)):
            return plain
    try:
        return run(AtHome(home)(model))
    except RuntimeError as error:
        if not is_mix_of_devices(error):
            raise
    return run(model) if plain is None else plain
