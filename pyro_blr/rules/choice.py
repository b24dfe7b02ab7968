# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which rule serves a guide: lifted latents where they can be, else what its draws tell."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.infer.traceenum_elbo import TraceEnum_ELBO
from pyro.optim import PyroOptim

from .. import errors
from ..energy.builder import EnergyBuilder
from ..guides.protocol import LatentGuide
from ..guides.views import NoView, at_points, view_of
from ..steps.mean_hessian import MeanHessian
from .drawn import DrawnRule
from .point_mass import PointMassRule
from .protocol import Rule
from .sites import find_sites


def choose(
    guide: Any,
    builder: EnergyBuilder,
    loss: ELBO | None,
    optim: PyroOptim,
    num_draws: int,
    hessian: MeanHessian,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> LatentGuide | Rule:
    """The view of a guide whose latents can be lifted in this model, or the rule of any other.

    :param builder: traces the model on lifted latents.
    :param num_draws: the draws a step, where the loss does not say.
    :param hessian: that of the minibatches of a point mass.
    """
    model: Callable[..., Any] = builder.model
    sites = find_sites(model, guide, args, kwargs, loss or Trace_ELBO())
    sites.check_names(loss)
    if sites.is_point_mass:
        given = loss or Trace_ELBO()
        rule = PointMassRule(model, guide, given, optim, builder.temperature, "")
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
    except errors.DiscreteLatentError as error:
        if not isinstance(loss, TraceEnum_ELBO):
            raise
        reason = f"{type(loss).__name__} sums over discrete latents ({error})"
    builder.model = model
    given = loss or Trace_ELBO(num_particles=num_draws)
    return DrawnRule(model, guide, given, optim, builder.temperature, reason)
