# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A Pyro model of discrete sites as a table of probabilities.

Every joint value of the sites is listed. The model is run at all of them at once, in a dim left of
its plates, if that gives what single runs give; else it is run at one after the other, which takes
any model: ``if``, sites that depend on values.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import biject_to

from .. import errors
from .._compat import constraint_of, stored_leaf
from ..signatures import signature_of
from .finite_model import FiniteModel
from .pyro_sites import Sites, sites_of


class EnumeratedModel(FiniteModel):
    """A Pyro model as a finite one, made by :func:`from_pyro`.

    Parameters are those of its ``pyro.param`` statements in unconstrained coordinates, as many as
    they have degrees of freedom (one less than probabilities on a simplex), or the elements of one
    of its arguments.
    """

    def __init__(
        self,
        sites: Sites,
        charts: Mapping[str, Any],
        arguments: Mapping[str, Tensor],
    ) -> None:
        self.sites, self.charts, self.arguments = sites, charts, arguments
        coordinates = self._coordinates()
        self.shapes = {name: tuple(own.shape) for name, own in coordinates.items()}
        super().__init__(self._table, sites.dims, sites.hidden, _element_names(self.shapes))
        given = self._given(self.theta)
        self.sites = sites.checked(*given)
        self._check_use(*given)

    def _coordinates(self) -> dict[str, Tensor]:
        """The unconstrained coordinates as they are now."""
        if self.arguments:
            return {name: own.detach() for name, own in self.arguments.items()}
        store = pyro.get_param_store()
        gone = [name for name in self.charts if name not in store]
        if gone:
            raise errors.UnknownNameError(
                f"the parameter {gone[0]!r} is no longer in Pyro's store. Mend: run the model, or "
                "pass the parameters, at(theta)."
            )
        return {name: chart.inv(store[name].detach()) for name, chart in self.charts.items()}

    def _check_use(self, parameters: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
        """Refuse a parameter whose value a run does not take: its derivatives would all be 0."""
        own = {n: v.detach().requires_grad_() for n, v in {**parameters, **arguments}.items()}
        with torch.enable_grad():
            table = self.sites.table(*(({}, own) if self.arguments else (own, {})))
        found: tuple[Tensor | None, ...] = (None,) * len(own)
        if table.requires_grad:
            found = torch.autograd.grad(table.sum(), list(own.values()), allow_unused=True)
        unused = [name for name, gradient in zip(own, found, strict=True) if gradient is None]
        if unused:
            raise errors.ArgumentError(
                f"the probabilities do not depend on the parameter {unused[0]!r}, or take its "
                "value from a module (pyro.module, a plain parameter of a PyroModule). Mend: "
                "take it out of the model, or make it a PyroParam."
            )

    @property
    def theta(self) -> Tensor:
        """The parameters as they are in Pyro's store now, or were in the call. # shape: (d,)"""
        return torch.cat([own.flatten() for own in self._coordinates().values()])

    def values(self, theta: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as the model has them.

        :param theta: # shape: (*batch, d)
        """
        found, start = {}, 0
        for name, shape in self.shapes.items():
            size = prod(shape)
            own = theta[..., start : start + size].reshape((*theta.shape[:-1], *shape))
            found[name] = own if self.arguments else self.charts[name](own)
            start += size
        return found

    def supports(self, theta: Tensor | None = None) -> dict[str, Tensor]:
        """The values along each dim."""
        return dict(self.sites.supports)

    def frequencies(self, data: Mapping[str, Tensor], theta: Tensor | None = None) -> Tensor:
        """The empirical law of data; see :meth:`.FiniteModel.frequencies`."""
        return super().frequencies(data, self.theta if theta is None else theta)

    def _given(self, theta: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Values of parameters, and of arguments, for a run."""
        values = self.values(theta)
        return ({}, dict(values)) if self.arguments else (values, {})

    def _table(self, theta: Tensor) -> Tensor:
        return self.sites.table(*self._given(theta))


def from_pyro(
    model: Callable[..., Any],
    *args: Any,
    visible: Sequence[str] | str = (),
    argument: str | None = None,
    **kwargs: Any,
) -> EnumeratedModel:
    """A Pyro model whose sites are all discrete as a finite model.

    Observed sites are visible, and the others hidden. The law of one datum is what is wanted, as a
    rule: call the model with one row of the data, since those of a plate are counted jointly. An
    element of a plate is a dim of its own, ``"y[0]"``.

    Example::

        def mixture(y):
            weight = pyro.param(
                "weight", torch.tensor(0.3), constraint=dist.constraints.unit_interval
            )
            probs = pyro.param(
                "probs", torch.tensor([0.2, 0.7]), constraint=dist.constraints.unit_interval
            )
            with pyro.plate("data", len(y)):
                k = pyro.sample("k", dist.Bernoulli(weight))
                pyro.sample("y", dist.Bernoulli(probs[k.long()]), obs=y)


        finite = geometry.from_pyro(mixture, torch.zeros(1))
        print(finite.at(finite.theta))

    :param model: a Pyro model.
    :param args: of the model; so are further keyword arguments.
    :param visible: sites that stand for data though they have no value.
    :param argument: the name of an argument of the model, a tensor, that holds the parameters; the
        ``pyro.param`` statements do if None.
    :raises ArgumentError: for a site whose values cannot be listed, or a model without parameters.
    :raises MemoryLimitError: for more joint values than can be listed.
    """
    call = _bound(model, args, kwargs) if argument else dict(kwargs)
    own = call.get(argument) if argument else None
    if argument and not (isinstance(own, Tensor) and own.is_floating_point() and own.numel()):
        raise errors.ArgumentError(
            f"argument={argument!r} is no tensor of floating-point numbers that the model was "
            f"called with. Mend: pass it, from_pyro(model, {argument}=tensor, "
            f"argument={argument!r})."
        )
    named = (visible,) if isinstance(visible, str) else tuple(visible)
    sites = sites_of(model, () if argument else args, call, named)
    charts = {} if argument else _charts(sites.parameters)
    arguments = {argument: call[argument]} if argument else {}
    if not charts and not arguments:
        raise errors.ArgumentError(
            "the model has no pyro.param, so that there is nothing to take derivatives in. Mend: "
            'pyro.param(name, start) in the place of a number, or argument="name" of the argument '
            "that holds the parameters."
        )
    return EnumeratedModel(sites, charts, arguments)


def _charts(names: Sequence[str]) -> dict[str, Any]:
    """The unconstrained coordinates of each parameter that is learnt."""
    found = {}
    for name in names:
        leaf, constraint = stored_leaf(name), constraint_of(name, None)
        if leaf is None or not leaf.requires_grad or not leaf.numel():
            continue
        try:
            found[name] = biject_to(constraint)
        except NotImplementedError as error:
            raise errors.ArgumentError(
                f"the constraint {constraint} of the parameter {name!r} has no unconstrained "
                "coordinates. Mend: a constraint that torch's biject_to knows."
            ) from error
    return found


def _bound(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name."""
    signature = signature_of(model)
    if signature is None:
        return dict(kwargs)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise errors.ArgumentError(
            f"the model takes {signature}, and what was given does not fit: {error}. Mend: call "
            "from_pyro with these arguments."
        ) from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _element_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """``w[0, 1]`` for each element of each tensor."""
    names = []
    for name, shape in shapes.items():
        for flat in range(prod(shape)):
            place = (
                [int(i) for i in torch.unravel_index(torch.tensor(flat), shape)] if shape else []
            )
            names.append(f"{name}[{', '.join(map(str, place))}]" if place else name)
    return names
