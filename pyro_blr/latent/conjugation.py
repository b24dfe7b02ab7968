# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A Pyro model whose posterior is exact: its coefficients, its evidence, its posterior."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from .. import errors
from .design import Design
from .grouping import Families, layout_of, space_of
from .harmonium import Datum, Harmonium
from .learning import Learned, learn
from .likelihoods import family_of
from .posterior import Posterior
from .probe import Call, Recorder, prior_draws, take_census
from .residuals import residuals_of
from .setting import Setting, fitted_points

#: Values of the latents at which the conjugation equation is checked.
CHECKED = 1000

#: Tensors of more numbers are shown by their shape.
MANY = 8


def conjugated(
    model: Callable[..., Any],
    *args: Any,
    families: Families | None = None,
    observed: tuple[str, ...] | str = (),
    exact: bool = False,
    points: int = CHECKED,
    **kwargs: Any,
) -> "Conjugated":
    """Find the conjugation parameters of a Pyro model, and how far it is from conjugated.

    :param model: with one or several latents for each datum, and observed sites.
    :param args: of the model; so are further keyword arguments.
    :param families: of latents whose posterior is not in the family of their prior, by name; a
        tuple of names for latents that one family describes together.
    :param observed: sites that stand for data though they have no value.
    :param exact: whether to refuse a model that is not conjugated to rounding.
    :param points: the number of random values of the latents at which the equation is checked.
    :raises NotConjugatedError: with the residual, if ``exact`` was asked for.
    """
    named = (observed,) if isinstance(observed, str) else tuple(observed)
    return Conjugated(model, args, kwargs, dict(families or {}), named, points, exact)


class Conjugated:
    """A model in the form of Sokoloski's conjugated harmoniums (arXiv 2404.19501).

    Made by :func:`conjugated`. Coefficients are read anew at each call, from the parameters and
    arguments as they are then.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        families: Families,
        observed: tuple[str, ...],
        points: int,
        exact: bool,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.families, self.observed, self.points = families, observed, points
        self.exact = exact
        self.replaced: tuple[Tensor, Tensor] | None = None
        self._design: Design | None = None
        with torch.no_grad():
            setting = self.setting(*args, **kwargs)
            self.harmonium = setting.harmonium()
            self.residuals = residuals_of(setting, self.harmonium, points)
            if not self.is_exact and setting.space.parts:
                self._design = Design.of(
                    setting.space, prior_draws(setting.census, points), setting.census.device
                )
                self.harmonium = self.setting(*args, **kwargs).harmonium()
                self.residuals = residuals_of(setting, self.harmonium, points)
        if exact and not self.is_exact:
            raise errors.NotConjugatedError(
                f"the model is not conjugated: {self.verdict}. Mend: take exact=False for the "
                "posterior by least squares, name another family of a latent by families=..., or "
                "fit the model by BLR."
            )

    def setting(self, *args: Any, **kwargs: Any) -> Setting:
        """The model with some arguments; those that it was made with if none are given."""
        if not args and not kwargs:
            args, kwargs = self.args, dict(self.kwargs)
        census = take_census(Call(self.model, args, kwargs), self.observed)
        space, layout = space_of(census, self.families), layout_of(census)
        if self._design is None:
            draws = prior_draws(census, fitted_points(space))
            self._design = Design.of(space, draws, census.device)
        return Setting(census, space, layout, self._design)

    # ----- What it says of the model ----------------------------------------------------------

    @property
    def is_exact(self) -> bool:
        """Whether the conjugation equation holds to rounding."""
        return self.residuals.is_rounding

    @property
    def residual(self) -> float:
        """sup | psi_x(nx + W s(z)) - r.s(z) - c | over random z, in nats."""
        return self.residuals.conjugation

    @property
    def verdict(self) -> str:
        """Whether the model is conjugated, in words."""
        return self.residuals.verdict

    @property
    def c(self) -> Tensor:
        """The constant of the conjugation equation, for each state of the discrete latents.

        It has the plates of the latents only where it differs along them.
        """
        return self._trimmed(self.residuals.constant, 0)

    @property
    def r(self) -> Any:
        """The conjugation parameters, as natural parameters of the family of the latent.

        With several continuous parts, one tuple for each; with discrete latents alone,
        ``r_k = c_k - c_0`` for their states k, and ``c`` is that of the state 0.
        """
        space = self.harmonium.space
        slope = self._trimmed(self.residuals.slope, 1)
        if not space.parts:
            return self.c - self.c[0]
        blocks = [part.unpack(own) for part, own in space.split(slope)]
        return blocks[0] if len(blocks) == 1 else tuple(blocks)

    def _trimmed(self, value: Tensor, trailing: int) -> Tensor:
        batch = value.shape[1 : value.dim() - trailing]
        kept = [size for size in batch if size > 1]
        value = value.reshape(value.shape[0], *kept, *value.shape[1 + len(batch) :])
        return value if self.harmonium.states else value[0]

    def __str__(self) -> str:
        setting, found = self.setting(), self.harmonium
        lines = [f"conjugated model: {self.verdict}"]
        for name, values in found.support.items():
            lines.append(f"  latent {name}: {len(values)} states, summed over one by one")
        for part in found.space.parts:
            lines.append(f"  latent {', '.join(part.names)}: {part.family.name}")
        for name in setting.census.observed:
            family = family_of(setting.census.sites[name])
            kind = "a density in no family" if family is None else family.name
            lines.append(f"  data {name}: {kind}")
        lines.append(f"  r: {_shown(self.r)}; c: {_shown(self.c)}")
        lines.append(f"  parameters: {', '.join(setting.census.parameters) or 'none'}")
        return "\n".join(lines)

    # ----- Exact inference --------------------------------------------------------------------

    def at(self, setting: Setting) -> Harmonium:
        """The coefficients in a setting, with the prior that :meth:`update` has put there."""
        found = setting.harmonium()
        return found if self.replaced is None else found.with_prior(*self.replaced)

    def _solved(self, args: Any, kwargs: Any) -> tuple[Harmonium, Tensor, Tensor]:
        """The harmonium, log p(x, k), and the natural parameters of z given k and x."""
        setting = self.setting(*args, **kwargs)
        found = self.at(setting)
        data = setting.data()
        if self.exact and not self.residuals.is_elementwise:
            self._require_complete(data)
        joint, natural, inside = found.posterior(data)
        if not bool(inside.all()):
            raise errors.ImproperPosteriorError(
                "the prior and the messages of some datum sum to natural parameters outside the "
                "domain of the family: the model is not conjugated where its posterior is. Mend: "
                "look at verdict, and fit the model by BLR."
            )
        return found, joint, natural

    def _require_complete(self, data: Mapping[str, Datum]) -> None:
        """Refuse gaps where the elements of the data are conjugated only all together."""
        gaps = [name for name, datum in data.items() if bool((datum.weight == 0.0).any())]
        if gaps:
            raise errors.NotConjugatedError(
                f"elements of the data {gaps[0]!r} are missing, and the model is conjugated only "
                "in the sum over all of them. Mend: take exact=False; the verdict is then that of "
                "the data that the model came with."
            )

    def posterior(self, *args: Any, **kwargs: Any) -> Posterior:
        """The exact posterior of each datum's latents, by addition of messages.

        :param args: of the model; those that it was made with if none are given.
        """
        found, joint, natural = self._solved(args, kwargs)
        return found.law(joint.log_softmax(0), natural)

    def log_evidence(self, *args: Any, **kwargs: Any) -> Tensor:
        """log p(x), in nats, of each datum that has its own latents. # shape: (*batch,)"""
        found, joint, _ = self._solved(args, kwargs)
        return found.layout.trim(joint, 0).logsumexp(0)

    def update(self, *args: Any, **kwargs: Any) -> "Conjugated":
        """The same model with the posterior as its prior: recursive Bayes.

        :param args: of the model; those that it was made with if none are given.
        """
        _, joint, natural = self._solved(args, kwargs)
        updated = copy(self)
        updated.replaced = (joint.log_softmax(0).detach(), natural.detach())
        return updated

    def condition(self, values: Mapping[str, Tensor]) -> "Conjugated":
        """The model with some of its sites observed.

        :param values: of sites, by name, as ``poutine.condition`` takes them.
        :raises ArgumentError: after :meth:`update`, whose law of the latents is not the model's.
        """
        if self.replaced is not None:
            raise errors.ArgumentError(
                "the prior has been replaced by a posterior, which the model does not know. Mend: "
                "condition first, then update."
            )
        model = poutine.condition(self.model, dict(values))
        how = (self.families, self.observed, self.points, self.exact)
        return Conjugated(model, self.args, self.kwargs, *how)

    def sample(self, count: int) -> dict[str, Tensor]:
        """Draw latents from their prior (after :meth:`update`, the posterior) and data given them.

        :returns: the values of every site. # shape: (count, *batch, *event)
        """
        setting = self.setting()
        call, model = setting.census.call, poutine.uncondition(self.model)
        if self.replaced is None:
            call, depth = replace(call, around=()), setting.layout.depth - len(call.around)
        else:
            found, depth = self.at(setting), setting.layout.depth
            drawn = found.law(found.log_weight, found.prior, count).sample()
            values = {name: found.layout.untrimmed(value, 1) for name, value in drawn.items()}
            model = poutine.condition(model, values)
        recorder = Recorder()
        with torch.no_grad(), pyro.plate("_latent_draws", count, dim=-depth - 1):
            replace(call, model=model).run(recorder)
        return {name: site.value for name, site in recorder.sites.items()}

    # ----- Learning ---------------------------------------------------------------------------

    def learn(
        self,
        *args: Any,
        method: str = "em",
        max_steps: int = 1000,
        tol: float = 1e-10,
        step_size: float | Callable[[int], float] | None = None,
        batch_size: int | None = None,
        metric: str = "joint",
        **kwargs: Any,
    ) -> Learned:
        """Learn the ``pyro.param`` statements of the model from the exact evidence, in place.

        :param args: of the model; those that it was made with if none are given.
        :param method: ``"em"``, ``"natural"`` or ``"gradient"``; the result names the metric.
        :param tol: the share of the log evidence that a step must gain to go on.
        :param step_size: rho of ``"natural"`` (1/2; 1 in the metric of the evidence; over
            minibatches ``(step + 2) ** -0.6``), or the rate of Adam over minibatches (0.01).
        :param batch_size: how many rows of each tensor argument to take at a time, at random; all
            if None.
        :param metric: of ``"natural"``: the Fisher information of the ``"joint"`` law of data and
            latents, or that of the ``"evidence"``.
        """
        if not args and not kwargs:
            args, kwargs = self.args, dict(self.kwargs)
        how = (method, max_steps, tol, step_size, batch_size, metric)
        result = learn(self.setting, args, kwargs, *how)
        with torch.no_grad():
            setting = self.setting(*args, **kwargs)
            self.harmonium = setting.harmonium()
            self.residuals = residuals_of(setting, self.harmonium, self.points)
        return result


def _shown(value: Any) -> str:
    """A few numbers, or the shape of many."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_shown, value)) + ")"
    if value.numel() > MANY:
        return f"shape {tuple(value.shape)}"
    numbers = [f"{float(v):.6g}" for v in value.flatten()]
    return numbers[0] if value.dim() == 0 else "[" + ", ".join(numbers) + "]"
