# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What depends on what in a model: sites, parameters and plates, by Pyro's own inspection."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from . import errors
from ._compat import InitMessenger, get_model_relations, init_to_median, site_is_subsample
from .guides.leaf import leaf_of
from .guides.start import located
from .random_state import same_random_state

#: What stands between the names of a module and of its parameters.
OF_MODULE = "$$$"

#: What Pyro's inspection puts behind the name of a plate that it takes apart.
CLONE = "__CLONE"

#: What it calls the distribution of a ``pyro.deterministic`` site.
DETERMINISTIC = "Deterministic"


@dataclass(frozen=True)
class ModelSite:
    """A site of a model.

    :param distribution: the name of its distribution's class.
    :param plates: that it is in, outermost first.
    :param parents: the sites, parameters and modules that its density depends on directly.
    """

    name: str
    distribution: str
    is_observed: bool
    plates: tuple[str, ...]
    parents: tuple[str, ...]

    @property
    def is_deterministic(self) -> bool:
        """Whether it is a value that is computed, and no random variable."""
        return self.distribution == DETERMINISTIC


@dataclass(frozen=True)
class Structure:
    """The graph of a model.

    :param parameters: ``pyro.param`` statements, and modules by their names, with a constraint.
    :param sizes: of each plate: of its subsample, and of the whole.
    """

    sites: tuple[ModelSite, ...]
    parameters: Mapping[str, str]
    sizes: Mapping[str, tuple[int, int]]


class _Plates(Messenger):
    """Notes the sizes of the plates that sites are in."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, tuple[int, int]] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg):
            for frame in msg["cond_indep_stack"]:
                self.sizes[frame.name] = frame.size, frame.full_size or frame.size


def structure_of(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    with_deterministic: bool = False,
) -> Structure:
    """Run a model once, with its latents where a guide would start, and see what depends on what.

    :param with_deterministic: whether ``pyro.deterministic`` sites stand between others.
    :raises ArgumentError: for a model that Pyro's inspection cannot run.
    """
    plates = _Plates()

    def run(*args: Any, **kwargs: Any) -> Any:
        with plates, InitMessenger(located(init_to_median)):
            return model(*args, **kwargs)

    try:
        with poutine.block(), same_random_state(), pyro.validation_enabled(False):
            found = get_model_relations(run, args, dict(kwargs), with_deterministic)
            unfollowed = _unfollowed(found)
            users = _users(run, args, kwargs, unfollowed) if unfollowed else {}
    except Exception as error:
        raise errors.ArgumentError(
            "Pyro's inspection (pyro.infer.inspect), which tells what depends on what, cannot run "
            f"this model: {type(error).__name__}: {_first_line(error)} Mend: print the "
            "explanation in the place of drawing it."
        ) from error
    structure = _structure(found, plates.sizes, users)
    if with_deterministic:
        return structure
    return replace(structure, sites=tuple(s for s in structure.sites if not s.is_deterministic))


def _first_line(error: Exception) -> str:
    """What an error says, without the trace of shapes that Pyro puts behind it."""
    return (str(error).splitlines() or ["it says no more"])[0].rstrip(".") + "."


def _unfollowed(found: Mapping[str, Any]) -> list[str]:
    """The parameters that Pyro's inspection found no use of.

    ``pyro.module`` and ``PyroModule`` hand out a module's own tensors, which it cannot follow.
    """
    used = {name for names in found["sample_param"].values() for name in names}
    return [name for name in found["param_constraint"] if name not in used]


def _users(
    run: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], names: list[str]
) -> dict[str, list[str]]:
    """Which of some parameters each site's density depends on, by its gradient."""
    with torch.enable_grad():
        trace = poutine.trace(run).get_trace(*args, **kwargs)
        leaves = {name: leaf_of(trace.nodes[name]["value"]) for name in names}
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        return {
            name: [leaf for leaf, g in zip(leaves, _gradients(site, leaves), strict=True) if g]
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }


def _gradients(site: Any, leaves: Mapping[str, Tensor]) -> list[bool]:
    """Whether a site's density has a gradient in each leaf."""
    density = site["fn"].log_prob(site["value"]).sum()
    if not density.requires_grad or not leaves:
        return [False] * len(leaves)
    found = torch.autograd.grad(
        density, list(leaves.values()), retain_graph=True, allow_unused=True
    )
    return [g is not None for g in found]


def _structure(
    found: Mapping[str, Any],
    sizes: Mapping[str, tuple[int, int]],
    users: Mapping[str, list[str]],
) -> Structure:
    inside: dict[str, set[str]] = {name: set() for name in found["sample_dist"]}
    for plate, names in found["plate_sample"].items():
        for name in names:
            inside[name].add(plate.split(CLONE)[0])
    outermost = _outermost_first(inside, sizes)
    sites = []
    for name, distribution in found["sample_dist"].items():
        used = (*found["sample_param"][name], *users.get(name, ()))
        sites.append(
            ModelSite(
                name,
                distribution,
                name in found["observed"] and distribution != DETERMINISTIC,
                tuple(p for p in outermost if p in inside[name]),
                (*found["sample_sample"][name], *dict.fromkeys(map(module_of, used))),
            )
        )
    parameters: dict[str, str] = {}
    for name, constraint in found["param_constraint"].items():
        parameters.setdefault(module_of(name), "module" if OF_MODULE in name else constraint)
    return Structure(tuple(sites), parameters, sizes)


def _outermost_first(
    inside: Mapping[str, set[str]], sizes: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Plates, those with the most sites first, so that nested ones are frames in frames."""
    counts = {plate: sum(plate in own for own in inside.values()) for plate in sizes}
    return sorted(counts, key=lambda plate: -counts[plate])


def module_of(parameter: str) -> str:
    """The name of the module that a parameter is of; its own where it is of none."""
    return parameter.split(OF_MODULE)[0]
