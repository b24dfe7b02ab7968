# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The model and the guide of a fit: of this package's engine, of SVI, or of an ELBO as a module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..blr import BLR
from ..energy.at_prior import DrawnAtPrior, SampledNoise
from ..fit import Fit
from ..guides.natural_guide import NaturalGuide
from ..rules.sites import tempered


@dataclass(frozen=True, eq=False)
class Fitted:
    """What draws are taken of.

    :param target: the model whose log joint q was fitted to: the model itself, unless there is a
        temperature.
    :param view: the guide in natural coordinates, or None where it is known by its draws.
    :param fit: what ``BLR.fit`` returned, if that was given.
    :param joint: the target for a sampler, where it is another: with the noise of latents that q
        leaves at their prior as latents, where the target draws them.
    """

    model: Callable[..., Any]
    guide: Any
    target: Callable[..., Any]
    view: Any = None
    temperature: float = 1.0
    fit: Fit | None = None
    joint: Callable[..., Any] | None = None


def fitted(
    fit: Any, caller: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> Fitted:
    """The model and the guide of a fit.

    :param fit: what :meth:`~pyro_blr.BLR.fit` returned, a :class:`~pyro_blr.BLR`, an ``SVI``, or
        anything else with a ``model`` and a ``guide``, such as ``Trace_ELBO()(model, guide)``.
    :param str caller: the function that the user called, for errors.
    :param args: what the model is to be called with.
    :raises ArgumentError: if it is none of them, or an engine whose data are on several processes;
        for ``Parts`` in the place of the model's arguments.
    :raises GuideError: if the guide has not seen the model yet.
    """
    if isinstance(fit, Fitted):
        return fit
    source = fit.blr if isinstance(fit, Fit) else fit
    model, guide = getattr(source, "model", None), getattr(source, "guide", None)
    if not (callable(model) and callable(guide)):
        raise errors.ArgumentError(
            f"{caller} needs what blr.fit(...) returned, a BLR, or an SVI, not "
            f"{type(fit).__name__}. Mend: {caller}(blr.fit(*args), *args)."
        )
    view = guide if isinstance(guide, NaturalGuide) else getattr(source, "view", None)
    if view is not None and not view.is_set_up:
        raise errors.GuideError(
            "the guide has not seen the model yet, so there is nothing to draw. Mend: call "
            "blr.fit(*args) first."
        )
    if isinstance(source, BLR):
        source._in_one_place(caller, args, kwargs or {})
    temperature = source.temperature if isinstance(source, BLR) else 1.0
    joint = None
    if isinstance(view, NaturalGuide) and view.at_prior:
        joint = tempered(SampledNoise(view.at_prior)(model), temperature)
        model = DrawnAtPrior(view.at_prior)(model)
    return Fitted(
        *(model, guide, tempered(model, temperature), view, temperature),
        *(fit if isinstance(fit, Fit) else None, joint),
    )
