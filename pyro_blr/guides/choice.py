# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which family q has for each latent: the one that its own messages call for.

A latent's candidates are the families on its support (Gamma and inverse Gamma for positive values,
Beta for the unit interval, Dirichlet for the simplex, Wishart for positive definite matrices), that
of its prior first. A candidate is kept if every factor that touches the latent is linear in the
candidate's mean parameters, found by running the model on lifted latents, without reading data.
Where none is kept, and for real values, q is a Gaussian on the unconstrained space.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import interval
from torch.distributions.transforms import ExpTransform

from .. import errors
from .._compat import periodic_repeat
from ..energy.enumeration import is_discrete, listed_values
from ..energy.latents import Latent
from ..energy.traced import Traced
from ..families import (
    Beta,
    Categorical,
    DiagonalNormal,
    Dirichlet,
    ExponentialFamily,
    FixedScaleNormal,
    Gamma,
    InverseGamma,
    MultivariateNormal,
    Normal,
    Wishart,
    find_family,
    get_family,
    registered_families,
)
from ..families.registry import unwrap
from ..lifting import host
from ..lifting.expectation import is_linear
from ..lifting.terms import LatentSite
from .supports import plain_support

TraceLatents = Callable[[Mapping[str, Latent]], Traced]


def choose_latents(
    sites: Mapping[str, Any], families: Mapping[str, Any], trace: TraceLatents
) -> dict[str, Latent]:
    """The latents of a model, with their families.

    :param sites: the latent sites of a prototype trace, by name.
    :param families: the families that the user named.
    :param trace: runs the model on given latents.
    """
    left = {name: _candidates(name, site, families.get(name)) for name, site in sites.items()}
    chosen = {name: next(candidates) for name, candidates in left.items()}
    fixed = {n for n, latent in chosen.items() if latent.site.gaussian or latent.site.is_discrete}
    open_names = set(chosen) - set(families) - fixed
    while refused := _not_conjugate(trace(chosen), chosen, open_names):
        for name in refused:
            chosen[name] = next(left[name])
        open_names -= {name for name in refused if chosen[name].site.gaussian}
    return chosen


def gaussian_latents(sites: Mapping[str, Any]) -> dict[str, Latent]:
    """Latents that are all Gaussian, element by element, on their unconstrained spaces.

    :param sites: the latent sites of a prototype trace, by name.
    """
    return {name: next(_candidates(name, site, Normal())) for name, site in sites.items()}


def _candidates(name: str, site: Any, named: Any) -> Iterator[Latent]:
    """The laws to try for a latent, the last one of which always serves."""
    support = plain_support(site["fn"].support)
    if is_discrete(site["fn"]):
        if named is not None and not isinstance(_family(name, named), Categorical):
            raise errors.ArgumentError(
                f"families[{name!r}] is {named!r}, and the site is discrete: under a factorised q "
                "it has a probability for each of its values. Mend: leave it out."
            )
        yield discrete_latent(name, site)
        return
    _refuse_hidden_bounds(name, site["fn"])
    base = _base(support)
    if named is not None:
        yield _named(name, site, _family(name, named), base)
        return
    prior = find_family(site["fn"])
    for family in sorted(_on_support(base), key=lambda f: f != prior):
        yield _own(name, site, family)
    yield unconstrained(name, site)


def latent_of_law(name: str, site: Any, law: Any) -> Latent | None:
    """The latent of a site whose q is a given distribution, or None if it is no law of a latent.

    :param site: the site of the model.
    :param law: its distribution in a guide.
    """
    q, base = unwrap(law), _base(site["fn"].support)
    is_real = base is constraints.real or site["fn"].support is constraints.real_vector
    if isinstance(q, torch.distributions.LogNormal):
        positive = base in (constraints.positive, constraints.nonnegative)
        return _scalar(unconstrained(name, site)) if positive else None
    if isinstance(q, torch.distributions.Normal):
        return _scalar(unconstrained(name, site)) if is_real else None
    if isinstance(q, torch.distributions.MultivariateNormal):
        latent = unconstrained(name, site) if is_real else None
        return latent if latent is not None and latent.site.event_dim == 1 else None
    family = find_family(q)
    if family is None or family not in _on_support(base):
        return None
    return _own(name, site, family)


def _on_support(base: Any) -> tuple[ExponentialFamily, ...]:
    """The families that are laws on a support: the usual one first, then those of users."""
    return (*_usual_laws(base), *_registered_laws(base))


def _registered_laws(base: Any) -> tuple[ExponentialFamily, ...]:
    """The families on a support that say by which statistics factors are linear in them."""
    laws = (f for f in registered_families() if f.lifted_statistics)
    return tuple(f for f in laws if _closed(_base(f.support)) == _closed(base))


def _closed(base: Any) -> Any:
    """A constraint, that of positive values for those that may be 0."""
    return constraints.positive if base is constraints.nonnegative else base


def _usual_laws(base: Any) -> tuple[ExponentialFamily, ...]:
    if base in (constraints.positive, constraints.nonnegative):
        return Gamma(), InverseGamma()
    if base is constraints.unit_interval or _is_unit_interval(base):
        return (Beta(),)
    if base is constraints.simplex:
        return (Dirichlet(),)
    if base is constraints.positive_definite:
        return (Wishart(),)
    return ()


def _is_unit_interval(base: Any) -> bool:
    """Whether an interval with bounds of its own, as a Uniform has, is (0, 1)."""
    if not isinstance(base, interval):
        return False
    low, high = (torch.as_tensor(b, device="cpu") for b in (base.lower_bound, base.upper_bound))
    return host.truth((low == 0).all() & (high == 1).all())


def _family(name: str, named: Any) -> ExponentialFamily:
    if isinstance(named, ExponentialFamily | type):
        return get_family(named)
    raise errors.ArgumentError(
        f"families[{name!r}] is {named!r}, which is no family. Mend: name one of "
        "pyro_blr.families, such as pyro_blr.families.Gamma."
    )


def _base(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _named(name: str, site: Any, family: ExponentialFamily, base: Any) -> Latent:
    """The family that the user asked for, if the site's support allows it."""
    if isinstance(family, Normal | DiagonalNormal | FixedScaleNormal | MultivariateNormal):
        latent = unconstrained(name, site)
        if not isinstance(family, MultivariateNormal):
            return _scalar(latent, family if isinstance(family, FixedScaleNormal) else None)
        if latent.site.event_dim == 0:
            raise errors.ArgumentError(
                f"families[{name!r}] is MultivariateNormal, but the site has no event dim. Mend: "
                "name Normal, or declare the dims that belong together by .to_event(1)."
            )
        return latent
    if family not in _on_support(base):
        raise errors.ArgumentError(
            f"families[{name!r}] is {family.name}, which is no law of a latent on the support of "
            f"the site, {site['fn'].support}. Mend: leave it out, or name one of {_nameable(base)}."
        )
    return _own(name, site, family)


def _nameable(base: Any) -> str:
    """The families that a user may name on a support; Normal is one on the unconstrained space."""
    return ", ".join(family.name for family in (*_on_support(base), Normal()))


def _scalar(latent: Latent, family: ExponentialFamily | None = None) -> Latent:
    """The same with independent elements.

    :param family: of each; Normal if None.
    """
    site = LatentSite(latent.name, latent.site.shape, 0, True)
    return Latent(
        site,
        Normal() if family is None else family,
        latent.transform,
        latent.plates,
        latent.value_event_dim,
        latent.dtype,
        latent.device,
    )


def _own(name: str, site: Any, family: ExponentialFamily) -> Latent:
    """A latent whose variable is the site's value itself."""
    value, plates = full_value(site)
    variable = LatentSite(name, tuple(value.shape), family.event_dim, False)
    return Latent(variable, family, None, plates, site["fn"].event_dim, value.dtype, value.device)


def discrete_latent(name: str, site: Any) -> Latent:
    """A latent with a probability for each of its values, independent of every other."""
    value, plates = full_value(site)
    levels = listed_values(name, site["fn"])
    variable = LatentSite(name, tuple(value.shape), site["fn"].event_dim, False, levels)
    event_dim, dtype = site["fn"].event_dim, value.dtype
    return Latent(variable, Categorical(), None, plates, event_dim, dtype, value.device)


def unconstrained(name: str, site: Any) -> Latent:
    """A Gaussian latent on the unconstrained space; full covariance over the event dims."""
    value, plates = full_value(site)
    support = plain_support(site["fn"].support)
    transform = None
    event_dim = site["fn"].event_dim
    shape = tuple(value.shape)
    if _base(support) not in (constraints.real,) and support is not constraints.real_vector:
        # torch's own bijection to the positives adds an affine map that does nothing.
        positive = support in (constraints.positive, constraints.nonnegative)
        transform = ExpTransform() if positive else _bijection(name, support)
        shape = tuple(transform.inverse_shape(value.shape))
        event_dim = transform.domain.event_dim
    family = Normal() if event_dim == 0 else MultivariateNormal()
    variable = LatentSite(name, shape, event_dim, True)
    return Latent(
        variable, family, transform, plates, site["fn"].event_dim, value.dtype, value.device
    )


def _refuse_hidden_bounds(name: str, prior: Any) -> None:
    """Refuse laws that torch calls real but that do not live on the whole line.

    :raises GuideError: for an angle, and for a chain of transforms that ends in an affine one.
    """
    law = unwrap(prior)
    if isinstance(law, torch.distributions.MixtureSameFamily):
        _refuse_hidden_bounds(name, law.component_distribution)
        return
    if isinstance(law, torch.distributions.VonMises):
        raise errors.GuideError(
            f"latent {name!r} is an angle: its density is periodic, and has no finite mass under a "
            "Gaussian on the line. Mend: let two Gaussian latents be its cosine and sine, "
            "torch.atan2(s, c), or observe it."
        )
    parts = _transforms(law)
    hidden = [t for t in parts if _base(t.codomain) is not constraints.real]
    if hidden and _base(prior.support) in (constraints.real, constraints.real_vector):
        raise errors.GuideError(
            f"latent {name!r} goes through {type(hidden[0]).__name__} and then through a transform "
            "whose image torch takes for the whole line, so that its bounds are not known. Mend: "
            "sample the base distribution and apply the last transforms in the model."
        )


def _transforms(law: Any) -> list[Any]:
    """The transforms of a law, those of its base first, chains taken apart."""
    if not isinstance(law, torch.distributions.TransformedDistribution):
        return []
    found = _transforms(unwrap(law.base_dist))
    for transform in law.transforms:
        found += getattr(transform, "parts", [transform])
    return found


def _bijection(name: str, support: Any) -> Any:
    """The transform from real numbers to a support.

    :raises GuideError: if torch knows none.
    """
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise errors.GuideError(
            f"latent {name!r} is on {support}, where no family of pyro_blr is conjugate in this "
            f"model, and from real numbers there is no transform to it. Mend: {_other(support)}."
        ) from error


def _other(support: Any) -> str:
    """What to write in the place of a latent on a support without a transform."""
    if _base(support) is constraints.positive_definite:
        return (
            "use a Wishart latent as the precision_matrix of a MultivariateNormal and nowhere "
            "else, or write a covariance as scales times an LKJCholesky factor"
        )
    return "write it as a function of latents whose supports torch can transform to"


def full_value(site: Any) -> tuple[Tensor, dict[int, tuple[str, int]]]:
    """A site's value repeated to the full size of its plates, and the plates by dim."""
    value = site["value"].detach()
    event_dim = site["fn"].event_dim
    plates: dict[int, tuple[str, int]] = {}
    batch = value.dim() - event_dim
    for frame in site["cond_indep_stack"]:
        if not frame.vectorized:
            continue
        full = frame.full_size or frame.size
        dim = batch + frame.dim
        if dim < 0:
            continue
        if full != frame.size:
            value = periodic_repeat(value, full, dim).contiguous()
        plates[dim] = (frame.name, int(full))
    return value, plates


def _not_conjugate(traced: Traced, latents: dict[str, Latent], names: set[str]) -> set[str]:
    layout = {name: latent.block() for name, latent in (latents | traced.noise).items()}
    refused = set()
    for site in traced.sites:
        for node in site.lifted_factors:
            for name in names.intersection(node.site_names):
                if node.poly is None or not is_linear(node.poly, layout, layout[name]):
                    refused.add(name)
    return refused
