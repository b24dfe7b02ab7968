# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Learning the parameters of a conjugated model from its exact evidence.

The log joint is linear in the coefficients of the harmonium, so that the gradient of the evidence
in them is the sum over the data of the expected statistics, ``S = sum_n E[s | x_n]``, and EM the
maximum over the parameters of ``<S, coefficients(parameters)>``, whatever the number of data.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from .. import errors
from .._compat import stored_leaf
from ..steps.hessian import flat, gradient_graph, unflat
from ..steps.spectrum import Spectrum
from .batches import Batch, finite, minibatches, read
from .evidence_metric import fisher_of_evidence
from .maximising import Maximiser
from .probe import fixed_draws
from .setting import Setting

#: Expected numbers of data below which a state of the discrete latents is empty.
EMPTY = 1e-8

METRICS = {
    "em": "Fisher information of the joint (x, z), in its mean parameters, with steps of 1",
    "natural": "Fisher information of the joint (x, z), in its mean parameters",
    "evidence": "Fisher information of the evidence",
    "gradient": "observed information of the evidence, in the unconstrained parameters",
}


@dataclass
class Learned:
    """What learning did.

    :param metric: in which the steps are steepest ascents of the evidence.
    :param log_evidence: before each step, in nats, and after the last one; of the minibatch, times
        the number of data for each of its own, where there are minibatches.
    """

    method: str
    metric: str
    log_evidence: list[float] = field(default_factory=list)
    converged: bool = False
    reason: str = ""

    @property
    def steps(self) -> int:
        """How many were taken."""
        return max(0, len(self.log_evidence) - 1)

    def __str__(self) -> str:
        first, last = self.log_evidence[0], self.log_evidence[-1]
        return (
            f"{self.method}: log evidence {first:.6g} -> {last:.6g} nats in {self.steps} steps; "
            f"{self.reason}. Metric: {self.metric}."
        )


def leaves_of(setting: Setting) -> list[Tensor]:
    """The unconstrained tensors of the model's parameters."""
    leaves = [stored_leaf(name) for name in setting.census.parameters]
    found = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    if not found:
        raise errors.ArgumentError(
            "the model has no pyro.param to learn. Mend: write pyro.param(name, start) in the "
            "place of the number that is to be learnt."
        )
    return found


def em(batch: Batch, leaves: list[Tensor], tol: float, max_steps: int) -> Learned:
    """EM on all data: the evidence never falls."""
    result, maximiser = Learned("em", METRICS["em"]), Maximiser(leaves)
    for _ in range(max_steps):
        value, statistics = batch.expected()
        result.log_evidence.append(value)
        if _has_converged(result, tol):
            return result
        maximise(batch, statistics, maximiser)
    return _at_limit(result, batch)


def natural(
    batches: Iterator[Batch],
    leaves: list[Tensor],
    step_size: Callable[[int], float],
    tol: float,
    max_steps: int,
    is_full: bool,
) -> Learned:
    """Natural gradients in the mean parameters of the joint: averages of expected statistics.

    ``S <- (1 - rho) S + rho sum_n E[s | x_n]`` is the step (arXiv 2011.01170), and the parameters
    are the maximum of ``<S, coefficients>``; over minibatches it is online EM (arXiv 0712.4273).
    The first step has rho = 1: from then on S is the mean of a member of the model's own family.
    """
    result, average = Learned("natural", METRICS["natural"]), None
    maximiser = Maximiser(leaves)
    for step, batch in zip(range(max_steps), batches, strict=False):
        value, statistics = batch.expected()
        result.log_evidence.append(value)
        if is_full and _has_converged(result, tol):
            return result
        rho = 1.0 if average is None else step_size(step)
        if average is None:
            average = statistics
        elif [a.shape for a in average] != [s.shape for s in statistics]:
            raise errors.ArgumentError(
                "the coefficients of the model differ from row to row (inputs of each datum), so "
                'that minibatches have no common statistics. Mend: method="gradient", or all data '
                "at once."
            )
        pairs = zip(average, statistics, strict=True)
        average = tuple((1.0 - rho) * a + rho * s for a, s in pairs)
        maximise(batch, average, maximiser)
    return _at_limit(result, batch)


def gradient(batch: Batch, leaves: list[Tensor], tol: float, max_steps: int) -> Learned:
    """Newton's method on the exact evidence of all data, which never falls."""
    result, maximiser = Learned("gradient", METRICS["gradient"]), Maximiser(leaves)
    batch.expected()  # refuses a start without digits, from which every trial would be refused
    for _ in range(max_steps):
        loss, gain = maximiser.step(batch.loss)
        result.log_evidence.append(finite(-loss))
        if not gain < float("inf"):
            raise _no_maximum("log evidence")
        if gain <= tol * max(1.0, abs(loss)):
            result.converged = True
            result.reason = f"a step was to gain less than {tol:g} of the log evidence"
            return result
    return _at_limit(result, batch)


def natural_of_evidence(
    batch: Batch,
    leaves: list[Tensor],
    step_size: Callable[[int], float],
    tol: float,
    max_steps: int,
) -> Learned:
    """Natural gradients in the metric of the evidence, shortened until it does not fall."""
    result, mover = Learned("natural", METRICS["evidence"]), Maximiser(leaves)
    for step in range(max_steps):
        evidence = batch.evidence()
        gradient = flat([g.detach() for g in gradient_graph(-evidence, leaves)])
        result.log_evidence.append(finite(float(evidence.detach())))
        fisher, count = fisher_of_evidence(batch.setting, leaves)
        result.metric = f"{METRICS['evidence']}, from {count} data drawn from the model"
        direction = Spectrum(fisher, mover.eps).descent(gradient)
        if -0.5 * float(gradient @ direction) <= tol * max(1.0, abs(result.log_evidence[-1])):
            result.converged = True
            result.reason = f"a step was to gain less than {tol:g} of the log evidence"
            return result
        along = unflat(step_size(step) * direction, leaves)
        if not mover.move(batch.loss, along, -result.log_evidence[-1]):
            result.reason = "no step along the natural gradient raises the log evidence"
            return result
    return _at_limit(result, batch)


def stochastic_gradient(
    batches: Iterator[Batch],
    leaves: list[Tensor],
    step_size: Callable[[int], float],
    max_steps: int,
) -> Learned:
    """Adam on the exact evidence of minibatches."""
    result = Learned("gradient", "Euclidean, in the unconstrained parameters, scaled by Adam")
    optim = torch.optim.Adam(leaves)
    for step, batch in zip(range(max_steps), batches, strict=False):
        optim.zero_grad()
        loss = -batch.evidence()
        loss.backward()
        result.log_evidence.append(finite(-float(loss.detach())))
        for group in optim.param_groups:
            group["lr"] = step_size(step)
        optim.step()
    optim.zero_grad()
    return _at_limit(result, batch)


def maximise(batch: Batch, statistics: tuple[Tensor, ...], maximiser: Maximiser) -> None:
    """The M-step: the maximum of ``<S, coefficients(parameters)>``."""

    def loss_at() -> Tensor:
        pairs = zip(statistics, batch.setting.harmonium().coefficients(), strict=True)
        # A state of probability 0 has no share, though its level is infinite.
        terms = [torch.where(s == 0.0, 0.0, s * c).sum() for s, c in pairs]
        return -torch.stack(terms).sum()

    _check_states(batch, statistics, maximiser.leaves)
    if not maximiser.minimise(loss_at):
        raise _no_maximum("expected log joint")


def _no_maximum(what: str) -> errors.BLRError:
    return errors.ImproperPosteriorError(
        f"the {what} has no maximum over the parameters: a scale goes to 0 (a state of a discrete "
        "latent with one datum) or a parameter to infinity. Mend: start elsewhere, take fewer "
        "states, or give the parameter a prior and fit by BLR."
    )


def _check_states(batch: Batch, statistics: tuple[Tensor, ...], leaves: list[Tensor]) -> None:
    """Refuse to go on where a state without data has parameters of its own."""
    mass = statistics[0].reshape(len(statistics[0]), -1).sum(1)
    empty = mass < EMPTY
    if not bool(empty.any()):
        return
    coefficients = [c for c in batch.setting.harmonium().coefficients() if c.requires_grad]

    def moved_by(states: Tensor) -> list[Tensor]:
        """Which elements of the parameters the coefficients of some states depend on."""
        chosen = [c[states] for c in coefficients]
        noise = [torch.rand_like(c) for c in chosen]
        found = torch.autograd.grad(chosen, leaves, noise, retain_graph=True, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        return [torch.zeros_like(x).bool() if g is None else g != 0.0 for g, x in pairs]

    with fixed_draws():
        pairs = zip(moved_by(empty), moved_by(~empty), strict=True)
        if not any(bool((alone & ~others).any()) for alone, others in pairs):
            return
    names = ", ".join(map(repr, batch.setting.census.discrete))
    raise errors.EmptyStateError(
        f"the state {int(mass.argmin())} of {names} has no data ({float(mass.min()):.1e} of "
        "them in expectation), so that its parameters have no maximum. Mend: start them "
        "nearer to the data, take fewer states, or give the parameters a prior and fit by BLR."
    )


def _has_converged(result: Learned, tol: float) -> bool:
    trail = result.log_evidence
    if len(trail) < 2 or trail[-1] - trail[-2] > tol * max(1.0, abs(trail[-1])):
        return False
    result.converged = True
    result.reason = f"a step gained less than {tol:g} of the log evidence"
    return True


def _at_limit(result: Learned, batch: Batch) -> Learned:
    with torch.no_grad():
        result.log_evidence.append(finite(float(batch.evidence())))
    result.reason = "max_steps were taken"
    return result


def learn(
    setting_of: Callable[..., Setting],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    method: str,
    max_steps: int,
    tol: float,
    step_size: float | Callable[[int], float] | None,
    batch_size: int | None,
    metric: str,
) -> Learned:
    """Learn by one of the methods; see :meth:`.Conjugated.learn`."""
    _require("method", method, ("em", "natural", "gradient"))
    _require("metric", metric, ("joint", "evidence"))
    if metric == "evidence" and (method != "natural" or batch_size is not None):
        raise errors.ArgumentError(
            'metric="evidence" is one of method="natural" on all data. Mend: metric="joint".'
        )
    full = Batch(*read(setting_of(*args, **kwargs)), 1.0)
    leaves = leaves_of(full.setting)
    if batch_size is None:
        if method == "em":
            return em(full, leaves, tol, max_steps)
        if method == "gradient":
            return gradient(full, leaves, tol, max_steps)
        if metric == "evidence":
            size = _schedule(step_size, lambda step: 1.0)
            return natural_of_evidence(full, leaves, size, tol, max_steps)
        size = _schedule(step_size, lambda step: 0.5)
        return natural(repeat(full), leaves, size, tol, max_steps, True)
    if method == "em":
        raise errors.ArgumentError(
            'EM takes all data at each step. Mend: method="natural" is online EM over minibatches.'
        )
    batches = minibatches(setting_of, args, kwargs, batch_size)
    if method == "gradient":
        size = _schedule(step_size, lambda step: 0.01)
        return stochastic_gradient(batches, leaves, size, max_steps)
    size = _schedule(step_size, lambda step: (step + 2.0) ** -0.6)
    return natural(batches, leaves, size, tol, max_steps, False)


def _require(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        options = ", ".join(map(repr, known))
        raise errors.ArgumentError(f"{name}={given!r} is not one of {options}.")


def _schedule(
    given: float | Callable[[int], float] | None, default: Callable[[int], float]
) -> Callable[[int], float]:
    if given is None:
        return default
    return given if callable(given) else lambda step: float(given)
