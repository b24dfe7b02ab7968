# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The sites of a Pyro model, the list of their joint values, and its law at each of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import pyro
import torch
from torch import Tensor

from .. import errors
from ..latent.peeling import finite_support, peel
from ..latent.probe import Call, Record, Recorder, fixed_draws
from ..shapes import broadcast_shapes

#: Joint values of all sites that are listed: the Jacobian has a row for each.
MAX_STATES = 4096

#: Joint values at which a run of all at once is compared with single runs.
COMPARED = 32


class _Placed(Recorder):
    """Gives every site a value, observed ones too, and parameters theirs."""

    def __init__(self, values: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values, self.given = values, parameters

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.given:
            msg["value"], msg["done"] = self.given[msg["name"]], True


@dataclass(frozen=True)
class Sites:
    """The discrete sites of a model.

    :param found: as a first run left them.
    :param supports: the values along each dim of the table: those of a site, or of one element.
    :param owners: the site of each dim.
    :param hidden: the dims of sites without a value.
    :param parameters: the names of ``pyro.param`` statements.
    :param at_once: whether the model is run at all joint values in one run.
    """

    call: Call
    found: Mapping[str, Record]
    supports: Mapping[str, Tensor]
    owners: Mapping[str, str]
    hidden: tuple[str, ...]
    parameters: tuple[str, ...]
    at_once: bool = True

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the table's dims."""
        return tuple(self.supports)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of values along them."""
        return tuple(len(s) for s in self.supports.values())

    def table(self, parameters: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Tensor:
        """The probability of each joint value. # shape: sizes"""
        flat = torch.arange(prod(self.sizes))
        find = self._together if self.at_once else self._one_by_one
        return find(flat, parameters, arguments).reshape(self.sizes)

    def checked(self, parameters: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> "Sites":
        """The same, run one by one if a run of all at once is refused or says something else."""
        count = prod(self.sizes)
        some = torch.arange(count)
        if count > COMPARED:
            with fixed_draws():
                some = torch.randperm(count)[:COMPARED].sort().values
        with torch.no_grad():
            single = self._one_by_one(some, parameters, arguments)
            try:
                together = self._together(torch.arange(count), parameters, arguments)[some]
            except (RuntimeError, ValueError, IndexError, TypeError):
                return replace(self, at_once=False)
        eps = torch.finfo(single.dtype).eps
        is_same = torch.allclose(single, together, rtol=64.0 * eps, atol=64.0 * eps)
        return self if is_same else replace(self, at_once=False)

    # ----- Runs -------------------------------------------------------------------------------

    def _together(
        self, flat: Tensor, parameters: Mapping[str, Tensor], arguments: Mapping[str, Any]
    ) -> Tensor:
        """The probabilities of joint values by one run. # shape: (N,)"""
        depth = max((len(s.fn.batch_shape) for s in self.found.values()), default=0)
        depth = max([depth, *(-d for s in self.found.values() for d in s.plates)])
        values = {}
        for name, value in self._values(flat).items():
            batch = len(self.found[name].fn.batch_shape)
            values[name] = value.reshape(len(flat), *(1,) * (depth - batch), *value.shape[1:])
        total = torch.ones(())
        for site in self._run(values, parameters, arguments).values():
            own = probabilities(site)
            if own.dim() != depth + 1 or len(own) != len(flat):
                raise ValueError(f"site {site.name!r} has probabilities of shape {own.shape}")
            total = total * own.flatten(1).prod(-1) if depth else total * own
        return total

    def _one_by_one(
        self, flat: Tensor, parameters: Mapping[str, Tensor], arguments: Mapping[str, Any]
    ) -> Tensor:
        """The probabilities of joint values by a run at each. # shape: (N,)"""
        values, found = self._values(flat), []
        for i in range(len(flat)):
            own = {name: value[i] for name, value in values.items()}
            run = self._run(own, parameters, arguments)
            other = [n for n in run if n not in self.found] or [
                n for n in self.found if n not in run
            ]
            if other:
                raise errors.ControlFlowError(
                    f"site {other[0]!r} is sampled at some values of the others and not at all of "
                    "them, so that the table has no dim for it. Mend: sample it always, and leave "
                    "its value aside where it is not needed."
                )
            found.append(torch.stack([probabilities(s).prod() for s in run.values()]).prod())
        return torch.stack(found)

    def _run(
        self,
        values: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        arguments: Mapping[str, Any],
    ) -> Mapping[str, Record]:
        call = replace(self.call, kwargs={**self.call.kwargs, **arguments})
        with pyro.validation_enabled(False):
            sites = call.run(_Placed(values, parameters)).sites
        return {n: s for n, s in sites.items() if not _is_computed(s)}

    def _values(self, flat: Tensor) -> dict[str, Tensor]:
        """The value of each site at some joint values. # shape of each: (N, *batch, *event)"""
        places = torch.unravel_index(flat, self.sizes)
        elements: dict[str, list[Tensor]] = {}
        for (dim, support), place in zip(self.supports.items(), places, strict=True):
            elements.setdefault(self.owners[dim], []).append(support[place])
        return {
            name: torch.stack(own, 1).reshape(len(flat), *self.found[name].fn.shape())
            for name, own in elements.items()
        }


def sites_of(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    named: tuple[str, ...],
) -> Sites:
    """Run a model once to see its sites.

    :param named: sites that are visible though they have no value.
    """
    call = Call(model, args, kwargs)
    with fixed_draws(), torch.no_grad():
        recorder = call.run(Recorder())
    sites = {n: s for n, s in recorder.sites.items() if not _is_computed(s)}
    unknown = [n for n in named if n not in sites]
    if unknown:
        raise errors.UnknownNameError(
            f"the model has no site {unknown[0]!r} to be visible; it has "
            f"{', '.join(map(repr, sites)) or 'none at all'}. Mend: one of these."
        )
    supports: dict[str, Tensor] = {}
    owners: dict[str, str] = {}
    for name, site in sites.items():
        support = _support(site)
        count = site.fn.batch_shape.numel()
        for i in range(count):
            dim = name if count == 1 else f"{name}[{_place(i, site.fn.batch_shape)}]"
            supports[dim], owners[dim] = support, name
            _check_count(prod(len(s) for s in supports.values()), name)
    seen = {n for n, s in sites.items() if s.is_observed} | set(named)
    hidden = tuple(d for d, owner in owners.items() if owner not in seen)
    if not hidden or len(hidden) == len(owners):
        what = "hidden" if not hidden else "visible"
        raise errors.GuideError(
            f"the model has no {what} site; it has {', '.join(map(repr, sites)) or 'none at all'}. "
            "Mend: pass the data that pyro.sample(..., obs=data) observes, and leave the hidden "
            'sites unobserved; or name those that stand for data, visible=("y",).'
        )
    return Sites(call, sites, supports, owners, hidden, tuple(recorder.parameters))


def probabilities(site: Record) -> Tensor:
    """The probability of a site's value. # shape: that of its batch, broadcast with the value

    Where probabilities were given they are taken as they are: their logarithms, which torch clamps,
    have no derivative at 0.
    """
    peeled, value = peel(site.fn), site.value
    base: Any = peeled.base
    found: Tensor
    if isinstance(base, torch.distributions.OneHotCategorical):
        base, value = base._categorical, value.argmax(-1)
    given = vars(base)
    if "probs" in given and isinstance(base, torch.distributions.Bernoulli):
        found = torch.where(value == 1.0, base.probs, 1.0 - base.probs)
    elif "probs" in given and isinstance(base, torch.distributions.Categorical):
        shape = broadcast_shapes(value.shape, base.batch_shape)
        place = value.long().expand(shape).unsqueeze(-1)
        found = base.probs.expand(*shape, -1).gather(-1, place).squeeze(-1)
    else:
        found = base.log_prob(value).exp()
    return found.flatten(-peeled.elements).prod(-1) if peeled.elements else found


def _is_computed(site: Record) -> bool:
    """Whether a site is a ``pyro.deterministic``, which has no probability of its own."""
    base = getattr(site.fn, "base_dist", site.fn)
    return site.is_observed and type(base).__name__ == "Delta"


def _support(site: Record) -> Tensor:
    """The values of a site. # shape: (K, *event)"""
    if hasattr(site.fn, "log_factor"):
        raise errors.ArgumentError(
            f"site {site.name!r} is a pyro.factor, so that the model is no law of its sites. Mend: "
            "leave it out, or write it as the distribution of a site."
        )
    if any(mask is not None and mask is not True for mask in (site.mask, peel(site.fn).mask)):
        raise errors.ArgumentError(
            f"site {site.name!r} is masked, so that the model is no law of its sites. Mend: call "
            "it with one row of the data that is complete."
        )
    support = finite_support(site.fn)
    if support is None:
        kind = type(getattr(site.fn, "base_dist", site.fn)).__name__
        raise errors.ArgumentError(
            f"site {site.name!r} is a {kind}, whose values have no finite list, and geometry is of "
            "tables. Mend: a Categorical over bins of it, or a number in its place."
        )
    return support


def _check_count(count: int, name: str) -> None:
    if count > MAX_STATES:
        raise errors.MemoryLimitError(
            f"with site {name!r} there are {count} joint values or more, and {MAX_STATES} can be "
            "listed. Mend: call the model with one row of the data; the Fisher information of N "
            "rows is N times that of one."
        )


def _place(flat: int, shape: torch.Size) -> str:
    return ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(flat), tuple(shape)))
