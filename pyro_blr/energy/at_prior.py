# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Latents that q leaves at their prior given the others: ``q(f | u) = p(f | u)``.

Such a latent is a function of the others and of noise of its own, ``f = loc(u) + scale eps`` with
``eps ~ N(0, 1)``. Its density cancels in the ELBO, so that what is left is the expectation of the
other factors over the noise as well. The noise is a Gaussian whose law nothing moves: it is no
block of q, has no place in the guide, and is as large as each call has it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import site_is_subsample
from ..families import Natural, Normal
from ..families.registry import unwrap
from ..lifting.blocks import Block
from ..lifting.distribution import LiftedDistribution
from ..lifting.tensor import LiftedTensor
from ..lifting.terms import LatentSite
from .latents import Latent


@lru_cache(maxsize=256)
def _noise(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Latent:
    """The noise of a site; the same object for the same shape, by which constants are known."""
    return Latent(LatentSite(name, shape, 0, True), Normal(), None, {}, 0, dtype, device)


class NoiseBlock(Block):
    """The noise of a site, which no step moves: independent standard normal elements."""


@lru_cache(maxsize=256)
def block_of(noise: Latent) -> NoiseBlock:
    """The block of a site's noise; the same object for the same noise."""
    return NoiseBlock(**vars(noise.block()))


def natural_of(noise: Latent) -> Natural:
    """The natural parameters of standard normal noise."""
    zero = torch.zeros(noise.site.shape, dtype=torch.float64, device=noise.device)
    return zero, zero - 0.5


def at_prior(msg: Mapping[str, Any]) -> tuple[Any, Latent]:
    """The value of a site as a function of the other latents and its noise, and the noise.

    :raises GuideError: for a law that is not Gaussian with a constant correlation.
    """
    law = _gaussian(msg)
    given = [t for t in law if isinstance(t, Tensor)] or [torch.zeros(())]
    like = max(given, key=lambda t: t.dim())
    noise = _noise(msg["name"], tuple(msg["fn"].shape()), like.dtype, like.device)
    return law.at(LiftedTensor.of_site(noise.site, noise.dtype, noise.device)), noise


class _Gaussian(NamedTuple):
    """A Gaussian law by how its value is made of noise.

    :param matrix: a Cholesky factor; None of a Normal, whose elements are independent.
    """

    loc: Any
    scale: Any
    matrix: Tensor | None

    def at(self, noise: Any) -> Any:
        """The value at standard normal noise of its shape."""
        if self.matrix is not None:
            noise = (self.matrix @ noise.unsqueeze(-1)).squeeze(-1)
        return self.loc + self.scale * noise


def _gaussian(msg: Mapping[str, Any]) -> _Gaussian:
    """The law of a site.

    :raises GuideError: for a law that is not Gaussian with a constant correlation.
    """
    law = unwrap(msg["fn"])
    kind = law.distribution if isinstance(law, LiftedDistribution) else type(law)
    if issubclass(kind, torch.distributions.Normal):
        return _Gaussian(_argument(law, "loc"), _argument(law, "scale"), None)
    if issubclass(kind, torch.distributions.MultivariateNormal):
        return _Gaussian(_argument(law, "loc"), 1.0, _factor(msg["name"], law, kind))
    raise _refused(msg["name"], kind)


def _argument(law: Any, name: str) -> Any:
    """An argument as it was given, or as torch's own distribution has it."""
    return law.arguments[name] if isinstance(law, LiftedDistribution) else getattr(law, name)


def _factor(name: str, law: Any, kind: type) -> Tensor:
    """The Cholesky factor of a covariance that depends on no latent."""
    if not isinstance(law, LiftedDistribution):
        return law.scale_tril  # type: ignore[no-any-return]
    given = {k: v for k, v in law.arguments.items() if k != "loc"}
    if any(isinstance(v, LiftedTensor) for v in given.values()):
        raise _refused(name, kind)
    (matrix,) = given.values()
    known = dist.MultivariateNormal(torch.zeros_like(matrix[..., 0]), **given)
    return known.scale_tril  # type: ignore[no-any-return]


def _refused(name: str, kind: type) -> errors.GuideError:
    """The error for a law that has no noise of its own here."""
    return errors.GuideError(
        f"latent {name!r} is to stay at its prior given the others, but its law is a "
        f"{kind.__name__} that is no Gaussian with known correlations. Mend: leave it out of "
        "at_prior, so that q holds it; or sample a Normal and make its value of that."
    )


class _AtPrior(Messenger):
    """Gives such latents values that are computed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] not in self.names or msg["is_observed"] or site_is_subsample(msg):
            return
        _compute(msg, self._value(msg))

    def _value(self, msg: dict[str, Any]) -> Tensor:
        raise NotImplementedError


class DrawnAtPrior(_AtPrior):
    """Draws such latents from their law given the others, as values that are computed."""

    def _value(self, msg: dict[str, Any]) -> Tensor:
        value: Tensor = msg["fn"]() if msg["value"] is None else msg["value"]
        return value


class SampledNoise(_AtPrior):
    """Makes such latents functions of noise that is a latent itself, ``"..._noise"``.

    For samplers of the joint posterior, whose log density has to be the same twice: of latents that
    are drawn anew each time, as by :class:`DrawnAtPrior`, it is not.
    """

    def _value(self, msg: dict[str, Any]) -> Tensor:
        fn, law = msg["fn"], _gaussian(msg)
        like = law.loc.new_zeros(fn.shape())
        noise = pyro.sample(f"{msg['name']}_noise", dist.Normal(like, 1.0).to_event(fn.event_dim))
        value: Tensor = law.at(noise)
        return value


def _compute(msg: dict[str, Any], value: Tensor) -> None:
    """Make a sample statement one of a computed value, which has no density of its own."""
    msg["fn"] = dist.Delta(value, event_dim=msg["fn"].event_dim).mask(False)
    msg["value"], msg["is_observed"] = value, True
    msg["infer"] = {**msg["infer"], "_deterministic": True}
