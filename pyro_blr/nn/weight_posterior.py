# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What an optimiser has learnt of a module's weights, by name: to keep, to sample, to merge.

Natural parameters add, so fits of one module on disjoint data merge without the data:
``sum_k precision_k mean_k`` and ``sum_k precision_k - (K - 1) prior``. That is exact where the
weights are independent in the posterior, as they are under q.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, CheckpointError, DomainError
from ..lifting import host
from ..optim.optimizer import GaussianOptimizer
from ..optim.prediction import check_draws, posterior, values_at_draws

#: What a file of this kind says of itself.
FORMAT = "pyro_blr weight posterior 1"


@dataclass(frozen=True, eq=False)
class WeightPosterior:
    """Independent Gaussians over some of a module's weights: an adapter's, or all of them.

    :param mean: by the parameters' names, in float32 or float64.
    :param precision: the same. # shape of each: that of the parameter
    :param prior_precision: of the prior, whose mean is 0, by the parameters' names.
    """

    mean: Mapping[str, Tensor]
    precision: Mapping[str, Tensor]
    prior_precision: Mapping[str, float]

    def __post_init__(self) -> None:
        shapes = [{n: t.shape for n, t in held.items()} for held in (self.mean, self.precision)]
        if shapes[0] != shapes[1] or shapes[0].keys() != self.prior_precision.keys():
            raise ArgumentError(
                "means, precisions and priors are of other names or shapes. Mend: one entry for "
                "each parameter in each of the three, of its shape."
            )
        for name, precision in self.precision.items():
            if not host.truth((precision > 0).all() & precision.isfinite().all()):
                raise DomainError(
                    f"parameter {name!r} has a precision that is not positive and finite, so it "
                    "has no Gaussian. Mend: WeightPosterior.of(optimizer, net) after training."
                )

    @classmethod
    def of(cls, optimizer: GaussianOptimizer, module: nn.Module) -> "WeightPosterior":
        """What an optimiser holds, as copies: of the parameters that it trains.

        :param optimizer: an IVON or VOGN.
        :param module: the one that it trains; of a LoRA model the frozen weights are left out.
        :raises ArgumentError: if it trains none of the module's, or holds no Gaussian.
        """
        if not isinstance(optimizer, GaussianOptimizer):
            raise ArgumentError(
                f"WeightPosterior holds Gaussians, and {type(optimizer).__name__} does not. Mend: "
                "pyro_blr.optim.posterior(optimizer, parameter) for each parameter."
            )
        groups = {p: g for g in optimizer.param_groups for p in g["params"]}
        mean, precision, prior = {}, {}, {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and optimizer.state.get(parameter):
                law = posterior(optimizer, parameter).base_dist
                mean[name] = law.loc.detach().clone()
                precision[name] = law.scale.detach().square().reciprocal()
                group = groups[parameter]
                prior[name] = float(group["ess"] * group["weight_decay"])
        if not mean:
            raise ArgumentError(
                f"no parameter of the {type(module).__name__} has a posterior in this optimiser. "
                "Mend: pass the module that it trains, after a first step."
            )
        return cls(mean, precision, prior)

    @classmethod
    def merge(cls, posteriors: Iterable["WeightPosterior"]) -> "WeightPosterior":
        """The posterior given the data of all of several fits, which were apart.

        Mathematically, natural parameters are added, and the prior that all but one had too many
        is taken away. Fits have to be of the same parameters, from the same start where a network
        has symmetries (a LoRA adapter has), and with the same prior: ``weight_decay * ess``.

        :param posteriors: of the same parameters.
        :raises ArgumentError: if they are of other parameters, or have other priors.
        :raises DomainError: if the sum is no Gaussian: a precision is not positive.
        """
        first, *rest = _alike(posteriors)
        mean, precision = {}, {}
        for name, prior in first.prior_precision.items():
            sums = first.precision[name] - len(rest) * prior
            linear = first.precision[name] * first.mean[name]
            for other in rest:
                sums = sums + other.precision[name].to(sums)
                linear = linear + (other.precision[name] * other.mean[name]).to(sums)
            if not host.truth((sums > 0).all()):
                raise DomainError(
                    f"merging {len(rest) + 1} posteriors leaves parameter {name!r} with a "
                    f"precision of {host.number(sums.min()):.3g}: its own precisions are below the "
                    "prior's, as a loss with negative curvature has them. Mend: train longer, or "
                    "take hessian='squared_gradient' or VOGN, whose Hessians are never negative."
                )
            mean[name], precision[name] = linear / sums, sums
        return cls(mean, precision, dict(first.prior_precision))

    def sample(self, num_draws: int) -> dict[str, Tensor]:
        """Draws by name, as ``torch.func.functional_call`` takes them. # shape: (S, *parameter)

        :param num_draws: S
        """
        check_draws(num_draws)
        return {
            name: m + torch.randn(num_draws, *m.shape, dtype=m.dtype, device=m.device) * p.rsqrt()
            for (name, m), p in zip(self.mean.items(), self.precision.values(), strict=True)
        }

    @contextmanager
    def sampled(self, module: nn.Module) -> Iterator[None]:
        """Put a module's weights at a draw for the time of a ``with`` block.

        :param module: one with these parameters; they come back as they were.
        """
        drawn = {name: value[0] for name, value in self.sample(1).items()}
        with self._put(module, drawn):
            yield

    def predict(
        self, module: nn.Module, function: Callable[[], Tensor], num_draws: int = 32
    ) -> Tensor:
        """What a function of the weights is at draws of them, without gradients.

        Average probabilities over the draws, not logits.

        :param module: one with these parameters; they come back as they were.
        :param function: takes no argument: ``lambda: model(**batch).logits``.
        :param num_draws: S
        :return: its values  # shape: (S, *output)
        """
        return values_at_draws(lambda: self.sampled(module), function, num_draws)

    def write(self, module: nn.Module) -> None:
        """Set a module's weights to the means.

        :param module: one with these parameters.
        """
        parameters = self._parameters(module)
        with torch.no_grad():
            for name, mean in self.mean.items():
                parameters[name].copy_(mean)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file of tensors and numbers.

        :param path: the file.
        """
        torch.save({"format": FORMAT, **self._parts()}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: Any = "cpu") -> "WeightPosterior":
        """Read it from a file.

        :param path: the file.
        :param device: where its tensors go.
        :raises CheckpointError: if it is a file of another kind.
        """
        error = CheckpointError(
            f"{os.fspath(path)!r} holds no posterior of weights. Mend: a file that "
            "WeightPosterior.save wrote."
        )
        try:
            held = torch.load(path, map_location=device, weights_only=True)
        except OSError:
            raise
        except Exception as cause:  # of any kind, where the file is none of torch's
            raise error from cause
        if not isinstance(held, dict) or held.pop("format", None) != FORMAT:
            raise error
        return cls(**held)

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {
            "mean": dict(self.mean),
            "precision": dict(self.precision),
            "prior_precision": dict(self.prior_precision),
        }

    def _parameters(self, module: nn.Module) -> dict[str, Tensor]:
        parameters = dict(module.named_parameters())
        for name, mean in self.mean.items():
            if name not in parameters or parameters[name].shape != mean.shape:
                raise CheckpointError(
                    f"the {type(module).__name__} has no parameter {name!r} of the shape "
                    f"{tuple(mean.shape)}. Mend: the module that was trained, with its adapter."
                )
        return {name: parameters[name] for name in self.mean}

    @contextmanager
    def _put(self, module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
        parameters = self._parameters(module)
        with torch.no_grad():
            before = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(values[name])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(before[name])


def _alike(posteriors: Iterable[WeightPosterior]) -> list[WeightPosterior]:
    """Posteriors of the same parameters under one prior.

    :raises ArgumentError: if they are not.
    """
    posteriors = list(posteriors) if isinstance(posteriors, Iterable) else []
    if not posteriors or not all(isinstance(p, WeightPosterior) for p in posteriors):
        raise ArgumentError("merge takes posteriors. Mend: WeightPosterior.merge([first, second]).")
    first = posteriors[0]
    shapes = {name: mean.shape for name, mean in first.mean.items()}
    for other in posteriors[1:]:
        if {name: mean.shape for name, mean in other.mean.items()} != shapes:
            raise ArgumentError(
                "merge takes posteriors of the same parameters: names or shapes differ. Mend: "
                "adapters of one model with one configuration."
            )
        for name, prior in first.prior_precision.items():
            own = other.prior_precision[name]
            if abs(own - prior) > 1e-6 * max(own, prior):
                raise ArgumentError(
                    f"parameter {name!r} has the prior precision {prior:.6g} in one posterior and "
                    f"{own:.6g} in another. Mend: fits with one prior, weight_decay = precision / "
                    "ess in each."
                )
    return posteriors
