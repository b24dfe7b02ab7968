# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Does this installation compute what it should? Two models whose answers are known."""

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..blr import BLR
from ..guides import AutoNatural
from ..isolation import nothing_left_behind

#: Relative to the numbers compared: a few hundred roundings of float64.
ROUNDING = 1e-10

#: The error that a rule of quadrature may have, in nats, for each of the data.
QUADRATURE = 1e-8

DATA = (0.3, -1.1, 2.4, 0.9, 1.7)


def self_test() -> int:
    """Print a line for each check, and at last ``ok`` or ``failed``; return the exit status."""
    checks: dict[str, Callable[[], float]] = {
        "conjugate model, one step against the closed form": partial(conjugate, "cpu"),
        "quadrature against a fine grid": partial(quadrature, "cpu"),
    }
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{i}"
        checks[f"conjugate model on {device}"] = partial(conjugate, device)
        checks[f"quadrature on {device}"] = partial(quadrature, device)
    results = [_run(name, check) for name, check in checks.items()]
    print("ok" if all(results) else "failed")
    return 0 if all(results) else 1


def _run(name: str, check: Callable[[], float]) -> bool:
    """Whether a check went well; whatever it does to the process is undone."""
    try:
        with nothing_left_behind(), torch.enable_grad():
            pyro.clear_param_store()
            off = check()
    except Exception as error:  # what is broken may break anywhere, and the others still run
        print(f"self-test: {name}: failed, {type(error).__name__}: {error}")
        return False
    print(f"self-test: {name}: ok, error {off:.0e}")
    return True


def _data(device: str) -> Tensor:
    return torch.tensor(DATA, dtype=torch.float64, device=device)


def conjugate(device: str) -> float:
    """A normal mean with a normal prior: the posterior and the evidence after one step."""
    y = _data(device)

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), y.new_tensor(2.0)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, y.new_tensor(1.0)), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide)
    blr.step(y)
    marginal = guide.marginal("mean")
    precision = 0.25 + len(y)
    covariance = torch.eye(len(y), dtype=y.dtype, device=y.device) + 4.0
    evidence = dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)
    return _largest(
        ROUNDING,
        (marginal.mean, y.sum() / precision),
        (marginal.variance, y.new_tensor(1 / precision)),
        (y.new_tensor(-blr.evaluate_loss(y)), evidence),
    )


def quadrature(device: str) -> float:
    """A logistic likelihood: the ELBO of a converged fit against a grid of 20 000 points."""
    y = (_data(device) > 0.5).double()

    def model(y: Tensor) -> None:
        logit = pyro.sample("logit", dist.Normal(y.new_zeros(()), y.new_tensor(1.5)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=logit), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide)
    if blr.explain(y)["y"].tier != "quadrature" or not blr.fit(y).converged:
        raise ArithmeticError("the fit by quadrature did not converge")
    q = guide.marginal("logit")
    z = q.mean + q.stddev * torch.linspace(-12, 12, 20_001, dtype=y.dtype, device=y.device)
    joint = dist.Normal(0.0 * z, 1.5).log_prob(z)
    joint = joint + dist.Bernoulli(logits=z[:, None]).log_prob(y).sum(-1)
    elbo = torch.trapezoid(q.log_prob(z).exp() * (joint - q.log_prob(z)), z)
    return _largest(QUADRATURE * len(y), (y.new_tensor(-blr.evaluate_loss(y)), elbo))


def _largest(limit: float, *pairs: tuple[Tensor, Tensor]) -> float:
    """The largest relative difference.

    :raises ArithmeticError: if it is above the limit, or no number.
    """
    error = max(float((a - b).detach().abs() / b.detach().abs().clamp(min=1.0)) for a, b in pairs)
    if not error <= limit:
        raise ArithmeticError(f"off by {error:.1e}, more than {limit:.0e}")
    return error
