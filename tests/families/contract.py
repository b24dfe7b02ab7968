# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the contract suite needs to know of a family: a new family is one row here."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pyro_blr import families as f
from pyro_blr.families import ExponentialFamily, Natural

Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """A family, random members of it, and points just outside its domain."""

    family: ExponentialFamily
    # natural(normal): from a function that gives standard normal numbers of (*batch, *shape).
    natural: Callable[[Draw], Natural]
    outside: tuple[Natural, ...]
    # Powers for which E[z^power] has a closed form; (none: the family must answer None).
    powers: tuple[float, ...] = ()
    # To how many digits the log density of Pyro's own distribution is right, if not to all.
    log_prob_rtol: float = 0.0
    # The size of the numbers whose difference the mean parameters are, at natural parameters:
    # eps times this is the error that they cannot avoid.
    mean_scale: Callable[[Natural], tuple[Tensor, ...]] | None = None

    def random(
        self, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> Natural:
        """Natural parameters of moderate size."""
        generator = Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn((*batch, *shape), generator=generator, dtype=torch.float64)

        return tuple(tensor.to(dtype) for tensor in self.natural(normal))

    def scales(self, natural: Natural) -> tuple[Tensor, ...]:
        """The size of the terms of which each mean parameter is the sum."""
        mean = tuple(tensor.abs() for tensor in self.family.mean_params(natural))
        if self.mean_scale is None:
            return mean
        return tuple(a + b for a, b in zip(mean, self.mean_scale(natural), strict=True))


def t(*numbers: float) -> Tensor:
    """A scalar from one number, a vector from more."""
    values = torch.tensor(numbers, dtype=torch.float64)
    return values[0] if len(numbers) == 1 else values


def unit_covectors(family: ExponentialFamily, natural: Natural) -> list[tuple[Tensor, ...]]:
    """A basis of the covectors: a one in each event entry of each block, in every batch element."""
    basis = []
    for which, dims in enumerate(family.natural_event_dims):
        shape = natural[which].shape[natural[which].dim() - dims :]
        for k in range(math.prod(shape)):
            covector = tuple(torch.zeros_like(tensor) for tensor in natural)
            covector[which].view(*covector[which].shape[: covector[which].dim() - dims], -1)[
                ..., k
            ] = 1.0
            basis.append(family.symmetrize(covector))
    return basis


def round_trip_bound(row: Row, natural: Natural, factor: float = 16.0) -> tuple[Tensor, ...]:
    """The error in natural parameters that rounding of the mean parameters alone causes.

    To first order |F^-1| (factor eps scales), and the rounding of the result itself.
    """
    family = row.family
    eps = torch.finfo(natural[0].dtype).eps
    scales = row.scales(natural)
    bound = tuple(factor * eps * (1.0 + tensor.abs()) for tensor in natural)
    for unit in unit_covectors(family, natural):
        size = family.inner(unit, scales)
        change = family.inverse_fisher(natural, unit)
        bound = tuple(
            b + factor * eps * c.abs() * size.reshape((*size.shape, *[1] * dims))
            for b, c, dims in zip(bound, change, family.natural_event_dims, strict=True)
        )
    return bound


def _precision(normal: Draw, size: int) -> Tensor:
    root = normal(size, size)
    return root @ root.mT + 0.5 * torch.eye(size)


def _multivariate_normal(normal: Draw) -> Natural:
    precision = _precision(normal, 3)
    return (precision @ normal(3).unsqueeze(-1)).squeeze(-1), -precision / 2


def _shared_covariance_normal(normal: Draw) -> Natural:
    precision = _precision(normal, 2)
    return normal(3, 2) @ precision, -precision / 2


def _arrow_normal(normal: Draw, size: int = 3, groups: int = 4, each: int = 2) -> Natural:
    local = torch.stack([_precision(normal, each) for _ in range(groups)], -3)
    cross = 0.3 * normal(groups, size, each)
    schur = cross @ local.inverse() @ cross.mT
    full = _precision(normal, size) + schur.sum(-3)
    first = torch.einsum("...ij,...j->...i", full, normal(size))
    return first, normal(groups, each), -full / 2, -cross, -local / 2


def _chain_normal(normal: Draw, length: int = 5, each: int = 2) -> Natural:
    full = torch.zeros(*normal(length, each, each).shape)
    beside = 0.3 * normal(length - 1, each, each)
    full = torch.stack([_precision(normal, each) for _ in range(length)], -3)
    # Every 2 x 2 block matrix of two neighbours is positive definite.
    schur = beside @ full[..., 1:, :, :].inverse() @ beside.mT
    full = full + torch.nn.functional.pad(2 * schur, (0, 0, 0, 0, 0, 1))
    full = full + torch.nn.functional.pad(full[..., 1:, :, :], (0, 0, 0, 0, 1, 0))
    return normal(length, each), -full / 2, -beside


def _wishart(normal: Draw) -> Natural:
    return normal().exp(), -_precision(normal, 3)


def _normal_gamma(normal: Draw) -> Natural:
    precision, location = _precision(normal, 2), normal(2)
    direction = (precision @ location.unsqueeze(-1)).squeeze(-1)
    rate = normal().exp() + (location * direction).sum(-1) / 2
    return normal().exp() + 0.3, -rate, direction, -precision / 2


def _normal_inverse_gamma(normal: Draw) -> Natural:
    first, *rest = _normal_gamma(normal)
    return -first - 2, *rest


def _normal_wishart(normal: Draw) -> Natural:
    location, kappa, (first, second) = normal(2), normal().exp(), _wishart(normal)
    second = second[..., :2, :2]
    square = location.unsqueeze(-1) * location.unsqueeze(-2)
    direction = kappa.unsqueeze(-1) * location
    second = second - kappa.unsqueeze(-1).unsqueeze(-1) * square / 2
    return first + 0.5, second, direction, -kappa / 2


def _digammas(natural: Natural) -> tuple[Tensor, ...]:
    """For psi(a_i) - psi(sum a), blocks of a Beta (scalars) or of a Dirichlet (a vector)."""
    a = torch.stack(natural, -1) + 1 if len(natural) > 1 else natural[0] + 1
    size = a.digamma().abs() + a.sum(-1, keepdim=True).digamma().abs()
    return size.unbind(-1) if len(natural) > 1 else (size,)


def _gamma_scale(natural: Natural) -> tuple[Tensor, ...]:
    shape, rate = natural[0] + 1, -natural[1]
    return shape.digamma().abs() + 2 * rate.log().abs() + shape.log().abs(), shape / rate


def _inverse_gamma_scale(natural: Natural) -> tuple[Tensor, ...]:
    return _gamma_scale((-natural[0] - 2, natural[1]))


INDEFINITE = torch.tensor([[1.0, 2.0], [2.0, 4.0 - 1e-9]], dtype=torch.float64)


def _arrow(full: Tensor, cross: Tensor, local: Tensor) -> Natural:
    """Natural parameters of an ArrowNormal with a precision matrix and linear part 1."""
    first, each = torch.ones(full.shape[-1]), torch.ones(local.shape[:-1])
    natural = (first, each, -full / 2, -cross, -local / 2)
    return tuple(part.double() for part in natural)


def _chain(own: Tensor, beside: Tensor) -> Natural:
    """Natural parameters of a ChainNormal with a precision matrix and linear part 1."""
    natural = (torch.ones(own.shape[:-1]), -own / 2, -beside)
    return tuple(part.double() for part in natural)


ROWS = (
    Row(
        f.Normal(),
        lambda normal: (2 * normal(), -normal().exp() / 2),
        outside=((t(1.0), t(0.0)), (t(1.0), t(1e-300))),
    ),
    Row(
        f.MultivariateNormal(),
        _multivariate_normal,
        outside=(
            (t(1.0, 1.0), -INDEFINITE),
            (t(1.0, 1.0), torch.zeros(2, 2, dtype=torch.float64)),
            (t(1.0, 1.0), torch.eye(2, dtype=torch.float64)),
        ),
    ),
    Row(
        f.DiagonalNormal(),
        lambda normal: (2 * normal(3), -normal(3).exp() / 2),
        outside=((t(1.0, 1.0), t(-1.0, 0.0)), (t(1.0, 1.0), t(1e-300, -1.0))),
    ),
    Row(
        f.SharedCovarianceNormal(),
        _shared_covariance_normal,
        outside=(
            (torch.ones(3, 2).double(), -INDEFINITE),
            (torch.ones(3, 2).double(), torch.zeros(2, 2).double()),
        ),
    ),
    Row(
        f.ArrowNormal(),
        _arrow_normal,
        outside=(
            # S_nn = 0 for one n; an indefinite S_nn; the Schur complement 1 - 1 = 0; S_gg = 0.
            _arrow(torch.eye(1), torch.zeros(2, 1, 1), torch.tensor([[[1.0]], [[0.0]]])),
            _arrow(torch.eye(1), torch.zeros(1, 1, 2), INDEFINITE.unsqueeze(0)),
            _arrow(torch.eye(1), torch.full((4, 1, 1), 0.5), torch.ones(4, 1, 1)),
            _arrow(torch.zeros(1, 1), torch.zeros(2, 1, 1), torch.ones(2, 1, 1)),
        ),
    ),
    Row(
        f.ChainNormal(),
        _chain_normal,
        outside=(
            # S_tt = 0 for one t; an indefinite S_tt; a chain that is singular as a whole alone.
            _chain(torch.tensor([[[1.0]], [[0.0]], [[1.0]]]), torch.zeros(2, 1, 1)),
            _chain(torch.stack([INDEFINITE] * 2), torch.zeros(1, 2, 2)),
            _chain(torch.tensor([[[2.0]], [[4.0]], [[2.0]]]), torch.full((2, 1, 1), 2.0)),
            _chain(-torch.ones(1, 1, 1), torch.zeros(0, 1, 1)),
        ),
    ),
    Row(
        f.Gamma(),
        lambda normal: (normal().exp() - 0.9, -normal().exp()),
        outside=((t(-1.0), t(-1.0)), (t(-1.0 - 1e-15), t(-1.0)), (t(1.0), t(0.0))),
        powers=(0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.7, -0.25, 6.0, -0.9),
        mean_scale=_gamma_scale,
    ),
    Row(
        f.Beta(),
        lambda normal: (normal().exp() - 0.9, normal().exp() - 0.9),
        outside=((t(-1.0), t(1.0)), (t(1.0), t(-1.0)), (t(-1.0 - 1e-15), t(1.0))),
        powers=(0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 3.7, -0.9),
        mean_scale=_digammas,
    ),
    Row(
        f.Dirichlet(),
        lambda normal: (normal(4).exp() - 0.9,),
        outside=((t(1.0, -1.0, 1.0),), (t(1.0, 1.0, -1.0 - 1e-15),)),
        powers=(0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 3.7, -0.9),
        mean_scale=_digammas,
    ),
    Row(
        f.Bernoulli(),
        lambda normal: (3 * normal(),),
        outside=((t(math.inf),), (t(-math.inf),)),
    ),
    Row(
        f.SignBernoulli(),
        lambda normal: (1.5 * normal(),),
        outside=((t(math.inf),), (t(-math.inf),)),
    ),
    Row(
        f.FixedScaleNormal(0.25),
        lambda normal: (3 * normal(),),
        outside=((t(math.inf),), (t(-math.inf),)),
    ),
    Row(
        f.Categorical(),
        lambda normal: (2 * normal(3),),
        outside=((t(0.0, math.inf),), (t(-math.inf, 0.0),)),
    ),
    Row(
        f.InverseGamma(),
        lambda normal: (-normal().exp() - 1.1, -normal().exp()),
        outside=((t(-1.0), t(-1.0)), (t(-1.0 + 1e-15), t(-1.0)), (t(-2.0), t(0.0))),
        powers=(0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 0.25, -3.7, 0.9),
        mean_scale=_inverse_gamma_scale,
    ),
    Row(
        f.Wishart(),
        _wishart,
        outside=(
            (t(-1.0), -torch.eye(2, dtype=torch.float64)),
            (t(-1.0 - 1e-15), -torch.eye(2, dtype=torch.float64)),
            (t(1.0), -INDEFINITE),
            (t(1.0), torch.zeros(2, 2, dtype=torch.float64)),
        ),
    ),
    Row(
        f.NormalGamma(),
        _normal_gamma,
        outside=(
            # a = 0; b = 0, used up by m'P m/2; P = 0.
            (t(-0.5), t(-2.0), torch.ones(1).double(), -torch.ones(1, 1).double()),
            (t(1.0), t(-0.125), torch.ones(1).double(), -2.0 * torch.ones(1, 1).double()),
            (t(1.0), t(-2.0), torch.ones(1).double(), torch.zeros(1, 1).double()),
            (t(1.0), t(-2.0), torch.ones(2).double(), -INDEFINITE),
        ),
    ),
    Row(
        f.NormalInverseGamma(),
        _normal_inverse_gamma,
        outside=(
            (t(-1.5), t(-2.0), torch.ones(1).double(), -torch.ones(1, 1).double()),
            (t(-3.0), t(-0.125), torch.ones(1).double(), -2.0 * torch.ones(1, 1).double()),
            (t(-3.0), t(-2.0), torch.ones(1).double(), torch.zeros(1, 1).double()),
            (t(-3.0), t(-2.0), torch.ones(2).double(), -INDEFINITE),
        ),
    ),
    Row(
        f.NormalWishart(),
        _normal_wishart,
        outside=(
            # nu = D - 1; V^-1 = 0, used up by kappa m m'/2; kappa = 0; V^-1 indefinite.
            (t(-0.5), -torch.ones(1, 1).double(), torch.ones(1).double(), t(-1.0)),
            (t(1.0), -0.25 * torch.ones(1, 1).double(), torch.ones(1).double(), t(-1.0)),
            (t(1.0), -torch.ones(1, 1).double(), torch.ones(1).double(), t(0.0)),
            (t(1.0), -INDEFINITE, torch.zeros(2).double(), t(-1.0)),
        ),
    ),
    Row(
        f.Poisson(),
        lambda normal: (normal(),),
        outside=((t(math.inf),),),
    ),
    Row(
        f.Geometric(),
        lambda normal: (-normal().exp(),),
        outside=((t(0.0),), (t(1e-300),)),
    ),
    Row(
        f.Binomial(7),
        lambda normal: (2 * normal(),),
        outside=((t(math.inf),), (t(-math.inf),)),
    ),
    Row(
        f.NegativeBinomial(2.5),
        lambda normal: (-normal().exp(),),
        outside=((t(0.0),), (t(1e-300),)),
    ),
    Row(
        f.Multinomial(5),
        lambda normal: (2 * normal(2),),
        outside=((t(0.0, math.inf),), (t(-math.inf, 0.0),)),
    ),
    Row(
        f.Exponential(),
        lambda normal: (-normal().exp(),),
        outside=((t(0.0),), (t(1e-300),)),
        powers=(0.0, 1.0, 2.0, 0.5, -0.5, 3.7, -0.8),
    ),
    Row(
        f.LogNormal(),
        lambda normal: (2 * normal(), -normal().exp() / 2),
        outside=((t(1.0), t(0.0)), (t(1.0), t(1e-300))),
        powers=(0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -3.7),
    ),
    Row(
        f.VonMises(),
        lambda normal: (2 * normal(), 2 * normal()),
        outside=((t(math.inf), t(0.0)),),
        log_prob_rtol=1e-6,
    ),
)
