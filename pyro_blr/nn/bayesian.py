# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Any torch module as a Pyro model: weights that are latents, and a likelihood of its outputs."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..counts import is_count
from ..errors import (
    ArgumentError,
    DropoutWarning,
    ParameterError,
    RunningStatisticsWarning,
    ShapeError,
    warn,
)
from ..lifting import host
from ..optim.module_call import called_with
from .likelihoods import Likelihood, check_targets, likelihood_of
from .matching import Choice, chosen, fan_in, filled, own_value, values
from .trained import Trained

RESTS = ("frozen", "trained")
#: Names that the model itself has.
RESERVED = ("data", "y", "outputs", "noise_precision")


def bayesian(
    module: nn.Module,
    likelihood: Any,
    *,
    where: Any = "all",
    prior_scale: Any = 1.0,
    prior_mean: Any = 0.0,
    noise_scale: Any = None,
    rest: str = "frozen",
    num_data: int | None = None,
) -> "BayesianModule":
    """Turn a module into a Pyro model ``model(x, y)``, whose weights have Gaussian priors.

    With ``where="last"`` and a linear last layer the features before it are constants, and the
    model is Bayesian linear or logistic regression on them: exact, or by quadrature.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> model = bayesian(net, "regression", where="last", noise_scale=0.1)
    >>> model.sites
    ('2.weight', '2.bias')

    :param module: the network, which is not changed (but see ``rest``).
    :param likelihood: ``"classification"``: logits, of one output (or of two, their difference)
        Bernoulli's, else Categorical. ``"regression"``: a Gaussian about the outputs. Or a function
        from the outputs to a distribution with one batch dim, that of the data, which may call
        ``pyro.sample`` for latents of its own.
    :param where: which parameters are latents: ``"all"``; ``"last"``, those of the last submodule
        (in the order in which they were assigned); names, names of submodules or patterns
        (``"*.weight"``), one or a list of them; or a function ``(name, parameter) -> bool``.
    :param prior_scale: the standard deviation of the prior: a number; ``"fan_in"`` for
        ``1 / sqrt(fan_in)`` of matrices and kernels and 1 of vectors; a function ``(name,
        parameter)``; or a mapping from names or patterns to these, of which the first fits.
    :param prior_mean: its mean, in the same forms; ``"module"`` for the module's own values.
    :param noise_scale: of a regression, the standard deviation of the noise, one number or one an
        output; if left out its precision is a latent ``noise_precision`` with the prior
        Gamma(1, 1), one an output.
    :param rest: what the other parameters are. ``"frozen"``: as they are. ``"trained"``: those that
        require a gradient are parameters of Pyro's, which the optimiser of ``BLR`` moves, in place.
    :param num_data: how many data there are in all, where calls have minibatches.
    :raises ArgumentError: for a module without parameters, and arguments that cannot be used.
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError(
            f"bayesian takes a module, not a {type(module).__name__}. Mend: a torch.nn.Module."
        )
    if rest not in RESTS:
        raise ArgumentError(f"rest = {rest!r}. Mend: {' or '.join(map(repr, RESTS))}.")
    if not (num_data is None or is_count(num_data)):
        raise ArgumentError(f"num_data = {num_data!r}. Mend: how many data there are in all.")
    sites = chosen(module, where)
    scale = values("prior_scale", prior_scale, {"fan_in": fan_in}, module)
    mean = values("prior_mean", prior_mean, {"module": own_value}, module)
    law = likelihood_of(likelihood, noise_scale)
    data = None if num_data is None else int(num_data)
    return BayesianModule(module, law, sites, (mean, scale), rest, data)


class BayesianModule(nn.Module):
    """What :func:`bayesian` returns: a Pyro model with a latent for each chosen parameter.

    Latents have the names of the parameters, the data the plate ``data`` and the site ``y``.
    """

    def __init__(
        self,
        module: nn.Module,
        likelihood: Likelihood,
        sites: list[str],
        prior: tuple[Choice, Choice],
        rest: str,
        num_data: int | None,
    ) -> None:
        super().__init__()
        self.module = module
        self.likelihood = likelihood
        #: The names of the parameters that are latents.
        self.sites = tuple(sites)
        self.rest = rest
        self.num_data = num_data
        self._prior = prior
        self._warned: set[type[Warning]] = set()
        for name, parameter in module.named_parameters():
            if name in sites:
                if name in RESERVED:
                    raise ArgumentError(
                        f"the parameter {name!r} would be a latent of a name that the model has "
                        f"for another site ({', '.join(RESERVED)}). Mend: the module as a part "
                        "of another, nn.Sequential(module)."
                    )
                self._arguments(name, parameter)
        frozen = self.frozen
        self._trained = Trained(
            [p for n, p in module.named_parameters() if n not in sites and n not in frozen]
        )

    @property
    def frozen(self) -> dict[str, Tensor]:
        """The parameters of the module that are constants, by name."""
        return {n: p for n, p in self.module.named_parameters() if self._is_frozen(n, p)}

    def _is_frozen(self, name: str, parameter: Tensor) -> bool:
        is_trained = self.rest == "trained" and parameter.requires_grad
        return name not in self.sites and not is_trained

    def forward(self, inputs: Any, y: Tensor | None = None) -> Any:
        """Sample the weights and the targets.

        :param inputs: of the module: one argument, a tuple of several, or a mapping of named ones.
        :param y: the targets; if left out they are sampled, and a site ``outputs`` has what the
            module returned, for ``Predictive``. # shape: (N,) or (N, K)
        :raises ShapeError: if the targets do not fit the outputs.
        """
        outputs = self._outputs(inputs)
        law = self.likelihood(outputs)
        if y is None:
            with pyro.plate("data", law.batch_shape[0]):
                _record(outputs)
                return pyro.sample("y", law)
        y = check_targets(law, y)
        if law.support is dist.constraints.boolean and not y.is_floating_point():
            y = y.to(next(self.module.parameters()).dtype)
        with self._data(len(y)):
            return pyro.sample("y", law, obs=y)

    def _outputs(self, inputs: Any) -> Any:
        """What the module returns at sampled weights."""
        self._look_at_layers()
        parameters = {n: self._value(n, p) for n, p in self.module.named_parameters()}
        args: tuple[Any, ...] = (inputs,)
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping):
            args, kwargs = (), dict(inputs)
        elif isinstance(inputs, tuple):
            args = inputs
        return called_with(self.module, parameters, args, kwargs)

    def _value(self, name: str, parameter: Tensor) -> Tensor:
        if name in self.sites:
            mean, scale = self._arguments(name, parameter)
            value = pyro.sample(name, dist.Normal(mean, scale).to_event(parameter.dim()))
            if value.shape != parameter.shape:
                raise ShapeError(
                    f"the draws of {name!r} have the shape {tuple(value.shape)}, the parameter "
                    f"{tuple(parameter.shape)}. Mend: one draw at a time, parallel=False."
                )
            return value  # type: ignore[no-any-return]
        if self._is_frozen(name, parameter):
            return parameter.detach()
        return self._trained.value(name, parameter)

    def _arguments(self, name: str, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of a parameter's prior."""
        mean, scale = (
            filled(option, choice(name, parameter), name, parameter)
            for option, choice in zip(("prior_mean", "prior_scale"), self._prior, strict=True)
        )
        if not host.truth((scale > 0).all() & scale.isfinite().all() & mean.isfinite().all()):
            raise ParameterError(
                f"the prior of parameter {name!r} has a standard deviation that is not positive, "
                "or a mean that is not finite. Mend: prior_scale > 0."
            )
        return mean, scale

    def _data(self, count: int) -> Any:
        if self.num_data is None or self.num_data == count:
            return pyro.plate("data", count)
        if count > self.num_data:
            raise ArgumentError(
                f"a call has {count} data, and num_data={self.num_data}. Mend: num_data is the "
                "number of all of them."
            )
        return pyro.plate("data", self.num_data, subsample_size=count)

    def _look_at_layers(self) -> None:
        """Warn once of each kind of layer that makes a run differ from the next one."""
        for layer in self.module.modules():
            if not layer.training:
                continue
            if isinstance(layer, _NormBase) and layer.running_mean is not None:
                self._warn(
                    f"{type(layer).__name__} is in training mode: it normalises a datum by the "
                    "others of its batch, and gathers running statistics at each of the model's "
                    "runs, so that the likelihood is no product over data and changes from step "
                    "to step. Mend: module.eval() before, or GroupNorm or LayerNorm in its place.",
                    RunningStatisticsWarning,
                )
            if _drops(layer):
                self._warn(
                    f"{type(layer).__name__} is in training mode and drops other units at each of "
                    "the model's runs, so that the likelihood is another from step to step, and "
                    "what explain says of it holds for one run. Mend: module.eval() before.",
                    DropoutWarning,
                )

    def _warn(self, message: str, category: type[Warning]) -> None:
        if category not in self._warned:
            self._warned.add(category)
            warn(message, category)


def _drops(layer: nn.Module) -> bool:
    """Whether a layer drops units at random: recurrent layers and attention have that built in."""
    rate = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0.0)
    return isinstance(rate, int | float) and rate > 0


def _record(outputs: Any) -> None:
    """Have what the module returned for each datum among the sites."""
    found = getattr(outputs, "logits", outputs)
    if isinstance(found, Tensor):
        pyro.deterministic("outputs", found, event_dim=found.dim() - 1)
