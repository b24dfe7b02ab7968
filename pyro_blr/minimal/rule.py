# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule: a model run once into a polynomial, its expectation, and steps along the messages."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.distribution import COERCIONS
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_blr.errors import DomainError
from pyro_blr.minimal.polynomial import NotConjugate, Polynomial, lift, symbol

Numbers = tuple[Tensor, ...]  # natural or mean parameters of one latent: 0-d, float64


# --- Families: q(z) = exp(<natural, T(z)> - A(natural)), all with base measure 1 ----------------


class Family(NamedTuple):
    """An exponential family of one scalar with two natural parameters, and where they start."""

    name: str
    domain: str  # of z: "real", "positive" or "unit"
    start: tuple[float, float]
    statistics: tuple[tuple[str, float], ...]  # T, each as (function of z, power)
    log_partition: Callable[[Tensor, Tensor], Tensor]  # A; its gradient is the mean parameters
    positive: Callable[[Tensor, Tensor], Numbers]  # what must be positive for a proper q
    distribution: Callable[[Tensor, Tensor], Any]


NORMAL = Family(  # natural (S m, -S/2) for mean m and precision S
    "Normal",
    domain="real",
    start=(0.0, -0.5),
    statistics=(("z", 1), ("z", 2)),
    log_partition=lambda n1, n2: -(n1**2) / (4 * n2) + (-math.pi / n2).log() / 2,
    positive=lambda n1, n2: (-n2,),
    distribution=lambda n1, n2: dist.Normal(-n1 / (2 * n2), (-2 * n2).rsqrt()),
)
GAMMA = Family(  # natural (a - 1, -b) for concentration a and rate b
    "Gamma",
    domain="positive",
    start=(0.0, -1.0),
    statistics=(("log z", 1), ("z", 1)),
    log_partition=lambda n1, n2: (n1 + 1).lgamma() - (n1 + 1) * (-n2).log(),
    positive=lambda n1, n2: (n1 + 1, -n2),
    distribution=lambda n1, n2: dist.Gamma(n1 + 1, -n2),
)
BETA = Family(  # natural (a - 1, b - 1)
    "Beta",
    domain="unit",
    start=(0.0, 0.0),
    statistics=(("log z", 1), ("log(1-z)", 1)),
    log_partition=lambda n1, n2: (n1 + 1).lgamma() + (n2 + 1).lgamma() - (n1 + n2 + 2).lgamma(),
    positive=lambda n1, n2: (n1 + 1, n2 + 1),
    distribution=lambda n1, n2: dist.Beta(n1 + 1, n2 + 1),
)
FAMILY_OF_PRIOR = {dist.Normal: NORMAL, dist.Gamma: GAMMA, dist.Exponential: GAMMA, dist.Beta: BETA}


# --- Log densities, written with + - * / ** log only: the same code serves latents and numbers --


def _normal(x: Polynomial, loc: Polynomial, scale: Polynomial) -> Polynomial:
    precision = scale**-2
    return (precision / (2 * math.pi)).log() / 2 - precision * (x - loc) ** 2 / 2


def _gamma(x: Polynomial, concentration: Polynomial, rate: Polynomial) -> Polynomial:
    a = concentration.number()  # its log-gamma is no polynomial
    return a * rate.log() + (a - 1) * x.log() - rate * x - math.lgamma(a)


def _exponential(x: Polynomial, rate: Polynomial) -> Polynomial:
    return rate.log() - rate * x


def _poisson(x: Polynomial, rate: Polynomial) -> Polynomial:
    return x * rate.log() - rate - math.lgamma(x.number() + 1)


def _bernoulli(x: Polynomial, probs: Polynomial) -> Polynomial:
    return x * probs.log() + (1 - x) * (1 - probs).log()


def _beta(x: Polynomial, concentration1: Polynomial, concentration0: Polynomial) -> Polynomial:
    a, b = concentration1.number(), concentration0.number()
    log_normalizer = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return (a - 1) * x.log() + (b - 1) * (1 - x).log() - log_normalizer


LOG_DENSITIES: dict[Any, Callable[..., Polynomial]] = {
    dist.Normal: _normal,
    dist.Gamma: _gamma,
    dist.Exponential: _exponential,
    dist.Poisson: _poisson,
    dist.Bernoulli: _bernoulli,
    dist.Beta: _beta,
}


# --- Running the model once ---------------------------------------------------------------------


class Unbuilt(NamedTuple):
    """A distribution whose constructor has not run, since its arguments may be polynomials."""

    cls: Any
    arguments: dict[str, Polynomial]


def _unbuilt(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Unbuilt:
    if cls not in LOG_DENSITIES:
        raise NotConjugate(f"no log density is written here for {cls.__name__}: use pyro_blr.BLR")
    bound = cls.__signature__.bind(*args, **kwargs).arguments
    bound.pop("validate_args", None)
    return Unbuilt(cls, {name: lift(x) for name, x in bound.items()})


class LogJoint(Messenger):
    """Gather the log joint density of a model as one polynomial, and the family of each latent."""

    def __enter__(self) -> "LogJoint":
        self.polynomial, self.families = lift(0.0), dict[str, Family]()
        COERCIONS.append(_unbuilt)  # Pyro's hook: asked before any distribution is constructed
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        COERCIONS.remove(_unbuilt)

    def _pyro_sample(self, msg: Any) -> None:
        site, fn = msg["name"], msg["fn"]
        if msg["cond_indep_stack"] or msg["mask"] is not None or not isinstance(fn, Unbuilt):
            raise NotConjugate(f"site {site!r}: plates and masks are left to pyro_blr.BLR")
        if not msg["is_observed"]:
            if fn.cls not in FAMILY_OF_PRIOR:
                raise NotConjugate(f"site {site!r}: no family for a latent {fn.cls.__name__}")
            self.families[site] = FAMILY_OF_PRIOR[fn.cls]
            msg["value"] = symbol(site, self.families[site].domain)
        log_density = LOG_DENSITIES[fn.cls](lift(msg["value"]), **fn.arguments)
        self.polynomial = self.polynomial + log_density * msg["scale"]
        msg["done"] = True  # Pyro draws nothing


# --- The rule -----------------------------------------------------------------------------------


def expected(
    polynomial: Polynomial, families: Mapping[str, Family], mean_params: Mapping[str, Numbers]
) -> Tensor:
    """E_q of a polynomial: each statistic is replaced by its mean parameter.

    :raises NotConjugate: if a term holds anything of a latent but one of its statistics.
    """
    total = torch.zeros((), dtype=torch.float64)
    for term, number in polynomial.terms.items():
        product = torch.full_like(total, number)
        for site in {atom.site for atom, _ in term}:
            family = families[site]
            powers = [(atom.function, power) for atom, power in term if atom.site == site]
            if len(powers) > 1 or powers[0] not in family.statistics:
                raise NotConjugate(f"{powers} of {site!r} is no statistic of {family.name}")
            product = product * mean_params[site][family.statistics.index(powers[0])]
        total = total + product
    return total


def mean_params_of(site: str, family: Family, natural: Numbers) -> Numbers:
    """E[T], the gradient of the log-partition.

    :raises DomainError: if the natural parameters are improper.
    """
    if not all(x > 0 for x in family.positive(*natural)):
        raise DomainError(f"site {site!r}: the natural parameters {natural} are improper")
    leaves = tuple(x.detach().requires_grad_() for x in natural)
    return torch.autograd.grad(family.log_partition(*leaves), leaves)


class Fit(NamedTuple):
    """The result: coordinates and distribution of each latent, and the ELBO in nats."""

    natural: dict[str, Numbers]
    mean_params: dict[str, Numbers]
    distributions: dict[str, Any]
    elbo: float


def fit(
    model: Callable[..., Any], *args: Any, steps: int, step_size: float = 1.0, **kwargs: Any
) -> Fit:
    """Fit independent marginals by sweeps of the rule, latent by latent in the model's order.

    :param model: a Pyro model of scalar sites without plates.
    :param args: its arguments, as the keywords that are left.
    :param steps: the number of sweeps; one is exact for one latent at ``step_size=1``.
    :param step_size: rho, in (0, 1].
    :raises NotConjugate: if the log density is no polynomial in sufficient statistics.
    :raises DomainError: if a step makes a marginal improper.
    """
    with LogJoint() as joint:
        model(*args, **kwargs)
    natural, mean_params = dict[str, Numbers](), dict[str, Numbers]()
    for site, family in joint.families.items():
        natural[site] = tuple(torch.tensor(x, dtype=torch.float64) for x in family.start)
        mean_params[site] = mean_params_of(site, family, natural[site])
    for _ in range(steps):
        for site, family in joint.families.items():
            at = tuple(x.requires_grad_() for x in mean_params[site])
            value = expected(joint.polynomial, joint.families, {**mean_params, site: at})
            messages = torch.autograd.grad(value, at, materialize_grads=True)
            natural[site] = tuple(
                (1 - step_size) * n + step_size * message
                for n, message in zip(natural[site], messages, strict=True)
            )
            mean_params[site] = mean_params_of(site, family, natural[site])
    elbo = expected(joint.polynomial, joint.families, mean_params)
    for site, family in joint.families.items():  # and the entropy, A(natural) - <natural, mean>
        inner = sum(n * m for n, m in zip(natural[site], mean_params[site], strict=True))
        elbo = elbo + family.log_partition(*natural[site]) - inner
    distributions = {s: f.distribution(*natural[s]) for s, f in joint.families.items()}
    return Fit(natural, mean_params, distributions, float(elbo))
