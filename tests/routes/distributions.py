# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Distributions that the hook of Pyro does not see, or that have no rule."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import AffineTransform, ExpTransform, Transform

from tests.routes.registry import X, Y, observe, route


@route("value")
def affine_transform_of_a_base(z: Tensor, w: Tensor, t: Tensor) -> None:
    base = dist.Normal(0.0, 1.0).expand([3])
    with pyro.plate("data", 3):
        pyro.sample("y", dist.TransformedDistribution(base, [AffineTransform(z, 2.0)]), obs=Y)


@route("value")
def affine_transform_with_a_random_scale(z: Tensor, w: Tensor, t: Tensor) -> None:
    base = dist.Normal(0.0, 1.0).expand([3])
    transform = AffineTransform(z, t.rsqrt())
    with pyro.plate("data", 3):
        pyro.sample("y", dist.TransformedDistribution(base, [transform]), obs=Y)


@route("value")
def transform_of_a_lifted_base(z: Tensor, w: Tensor, t: Tensor) -> None:
    with pyro.plate("data", 3):
        fn = dist.TransformedDistribution(dist.Normal(z * X, t.rsqrt()), [ExpTransform()])
        pyro.sample("y", fn, obs=Y.exp())


@route("either")
def raw_torch_normal_in_a_factor(z: Tensor, w: Tensor, t: Tensor) -> None:
    pyro.factor("y", torch.distributions.Normal(z * X, 0.7).log_prob(Y).sum())


@route("either")
def raw_torch_bernoulli_in_a_factor(z: Tensor, w: Tensor, t: Tensor) -> None:
    pyro.factor("y", torch.distributions.Bernoulli(logits=z * X).log_prob((Y > 0).double()).sum())


@route("value")
def pyro_distribution_in_a_factor(z: Tensor, w: Tensor, t: Tensor) -> None:
    with pyro.plate("data", 3):
        pyro.factor("y", dist.Normal(z * X, t.rsqrt()).log_prob(Y))


@route("either")
def divergence_in_a_factor(z: Tensor, w: Tensor, t: Tensor) -> None:
    p, q = torch.distributions.Normal(z, 1.0), torch.distributions.Normal(0.3, 2.0)
    pyro.factor("y", -torch.distributions.kl_divergence(p, q))


@route("either")
def draw_of_a_lifted_distribution(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(dist.Normal(z, 0.3).rsample())


@route("value")
def mixture_of_lifted_components(z: Tensor, w: Tensor, t: Tensor) -> None:
    weights = dist.Categorical(torch.tensor([0.3, 0.7]))
    with pyro.plate("data", 3):
        components = dist.Normal(torch.stack([w[0], w[1]]).expand(3, 2), 1.0)
        pyro.sample("y", dist.MixtureSameFamily(weights, components), obs=Y)


@route("value")
def mixture_with_lifted_weights(z: Tensor, w: Tensor, t: Tensor) -> None:
    weights = dist.Categorical(logits=torch.stack([z, -z]))
    with pyro.plate("data", 3):
        pyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(w, 1.0)), obs=Y)


@route("value")
def nested_wrappers(z: Tensor, w: Tensor, t: Tensor) -> None:
    base = dist.TransformedDistribution(dist.Normal(z, 1.0), [AffineTransform(w[0], t.rsqrt())])
    fn = dist.MaskedDistribution(base.expand([2, 3]), torch.tensor([True, False, True]))
    pyro.sample("y", dist.Independent(fn, 2), obs=torch.stack([Y, 2 * Y]))


@route("value")
def user_transform_that_writes_in_place(z: Tensor, w: Tensor, t: Tensor) -> None:
    base = dist.Normal(torch.zeros(3), t.rsqrt()).to_event(1)
    pyro.sample("y", dist.TransformedDistribution(base, [_Scaled(z)]), obs=Y)


class _Scaled(Transform):
    """``y = exp(s) x``, written as Pyro's own matrix transforms are: into a new tensor."""

    domain = codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, log_scale: Tensor) -> None:
        super().__init__()
        self.log_scale = log_scale

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros(3)
        x[..., :] = y * torch.exp(-self.log_scale)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 3 * self.log_scale


@route("value")
def distribution_without_a_rule(z: Tensor, w: Tensor, t: Tensor) -> None:
    with pyro.plate("data", 3):
        pyro.sample("y", dist.VonMises(z * X, 2.0), obs=Y)


@route("value")
def wrappers_of_a_distribution(z: Tensor, w: Tensor, t: Tensor) -> None:
    fn = dist.Normal(z, t.rsqrt()).expand([3]).mask(Y > -0.5).to_event(1)
    pyro.sample("y", fn, obs=Y)


@route("value")
def mask_below_an_event(z: Tensor, w: Tensor, t: Tensor) -> None:
    kept = torch.tensor([[True, False, True], [True, True, True]])
    with pyro.plate("rows", 2):
        fn = dist.Normal(z * X, t.rsqrt()).expand([2, 3]).mask(kept).to_event(1)
        pyro.sample("y", fn, obs=torch.stack([Y, 2 * Y]))
