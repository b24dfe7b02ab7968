# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which rule serves a guide: lifted latents where they can be, else what its draws tell."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer import Trace_ELBO, config_enumerate
from pyro.infer.elbo import ELBO
from pyro.infer.traceenum_elbo import TraceEnum_ELBO
from pyro.optim import PyroOptim

from .. import errors
from ..energy.builder import EnergyBuilder
from ..energy.enumeration import discrete_site
from ..guides.protocol import LatentGuide
from ..guides.views import NoView, at_points, view_of
from ..steps.mean_hessian import MeanHessian
from .drawn import DrawnRule
from .mixture import MixtureRule
from .point_mass import PointMassRule
from .protocol import Rule
from .sites import Sites, find_sites


def choose(
    guide: Any,
    builder: EnergyBuilder,
    loss: ELBO | None,
    optim: PyroOptim,
    num_draws: int,
    hessian: MeanHessian,
    mixture: MixtureRule | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> LatentGuide | Rule:
    """The view of a guide whose latents can be lifted in this model, or the rule of any other.

    :param builder: traces the model on lifted latents.
    :param num_draws: the draws a step, where the loss does not say.
    :param hessian: that of the minibatches of a point mass.
    :param mixture: the rule of a mixture of Gaussians, if the guide is one.
    """
    if mixture is not None:
        mixture.q.set_up(args, kwargs, builder)
        mixture.q.naturals()
        mixture.q.check_taken_up()
        return mixture
    model: Callable[..., Any] = builder.model
    sites = find_sites(model, guide, args, kwargs, loss or Trace_ELBO())
    sites.check_names()
    if sites.is_point_mass:
        given, enumerated = _summing(sites, model, loss, 1)
        rule = PointMassRule(enumerated, guide, given, optim, builder.temperature, "")
        rule.hessian = hessian
        return rule
    try:
        view = view_of(guide, sites.of_model, args, kwargs)
        view.set_up(args, kwargs, builder)
        builder.model = at_points(model, view.points)
        builder.trace(args, kwargs, view.latents)
        return view
    except NoView as why:
        reason = str(why)
    except (errors.ControlFlowError, errors.MemoryLimitError) as error:
        reason = str(error)
    builder.model = model
    given, enumerated = _summing(sites, model, loss, num_draws)
    return DrawnRule(enumerated, guide, given, optim, builder.temperature, reason)


def _summing(
    sites: Sites, model: Callable[..., Any], loss: ELBO | None, num_draws: int
) -> tuple[ELBO, Callable[..., Any]]:
    """The loss that sums over discrete latents which the guide leaves out, and their model.

    :raises DiscreteLatentError: if the user's own loss does not.
    """
    left_out = sites.summed_out
    if not left_out:
        return loss or Trace_ELBO(num_particles=num_draws), model
    if loss is None:
        loss = TraceEnum_ELBO(num_particles=num_draws)
    if not isinstance(loss, TraceEnum_ELBO):
        raise discrete_site(left_out[0])
    return loss, config_enumerate(model)
