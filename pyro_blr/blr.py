# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Bayesian Learning Rule with the signature of ``SVI``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.infer.autoguide import AutoGuide
from pyro.infer.elbo import ELBO
from pyro.optim import Adam, PyroOptim

from .arguments import (
    check_arguments,
    check_group,
    check_limits,
    check_rule,
    check_share,
    discrete_at_mean,
    discrete_of,
    hold_discrete,
    plain_number,
    reject_reserved,
    reject_unknown,
    sharded_plates,
)
from .chunks import first_call, holds_parts
from .energy.builder import EnergyBuilder
from .energy.discrete_marginals import discrete_marginals
from .energy.explanation import Explanation, ParameterExplanation, explain
from .engine import detached
from .families import Natural
from .fit import Fit, counted
from .guide_parameters import GuideParameters
from .guides.natural_guide import NaturalGuide
from .guides.views import View
from .info import Info
from .lifting.blocks import Block
from .lifting.quadrature import QUAD_TOL
from .loop import run, run_rule
from .model_call import call_of_model
from .model_parameters import ModelParameters
from .parted import Parted
from .picture import drawable
from .processes import Alone, Together
from .profiling import trace_report
from .sampling import SAMPLED_TOL
from .skips import Skips
from .steps.averaging import FEWEST
from .steps.schedule import StepSize, scheduled
from .surrogate import Surrogate, surrogate_of
from .trace_report import TraceReport
from .with_data import WithData


class BLR(WithData):
    """Variational inference by the Bayesian Learning Rule (arXiv 2107.04562), in the place of SVI.

    A step is ``natural <- (1 - rho) natural + rho dE_q[log p]/dmean_params``, block by block. The
    expectation is exact where the model is conjugate, by quadrature where a factor depends on one
    or two Gaussian scalars per element, and by draws of q elsewhere; :meth:`explain` says which and
    why.

    Example::

        guide = AutoNatural(model)
        blr = BLR(model, guide)
        fit = blr.fit(X, y)

    :param callable model: an ordinary Pyro model.
    :param guide: a guide in natural coordinates, one of Pyro's own, or one written by hand; it is
        taken as it is, and updated in place. A mean-field guide of exponential families is seen in
        natural coordinates; any other is known by its draws, and ``explain`` says so.
    :param PyroOptim optim: drives what has no natural coordinates (see ``params``): parameters of
        the model, modules, encoders. Adam with a learning rate of 0.01 if none is given.
    :param ELBO loss: a Pyro loss; its ``num_particles`` are the fewest draws of sampled factors.
        For a guide that is known by its draws it is the ELBO itself, ``Trace_ELBO`` with ten draws
        if left out.
    :param step_size: ``"auto"`` (the largest step that does not let the ELBO fall; on minibatches
        and factors with jumps steps that decrease as their noise asks for), a number in (0, 1], or
        a function of the step. For a point mass it is the share of Newton's step.
    :param blocks: ``"auto"`` merges latents, and elements of a plate, that are jointly
        linear-Gaussian and coupled, into one Gaussian block; ``"site"`` keeps one block a site.
    :param on_sampled: ``"warn"``, ``"error"`` or ``"ignore"`` for factors that need draws.
    :param params: how ``pyro.param`` moves. ``"optim"``: by the optimiser. ``"em"``: to the maximum
        of the ELBO over it given q, in closed form, after each step in q. ``"natural"``: along the
        natural gradient in the metric of the joint complete-data Fisher information, by the step
        size; at step size 1 that is EM. Under both the optimiser moves what has no closed form;
        :meth:`explain` says which.
    :param float temperature: T of generalised Bayes: log densities of observed sites and terms of
        ``pyro.factor`` are divided by it, priors are not. The loss is -ELBO of that target.
    :param float momentum: gamma in [0, 1): natural parameters go on by gamma times the last step,
        as far as the cone (and a deterministic ELBO under ``"auto"``) allows.
    :param float quad_tol: the error in nats a datum up to which a factor is by quadrature, not at
        draws; a kink (a Laplace density) is often met to 1e-6, not to 1e-8.
    :param num_draws: of q for sampled factors; if None, as many as keep their error below a share
        of the tolerance: they are renewed and grow once steps on the same draws have converged.
    :param estimator: of the curvature of sampled factors at Gaussian latents. ``"auto"``: exact
        Hessians up to 128 elements; beyond 512, where a likelihood is concave in the outputs of a
        network, Gauss and Newton's part of them (never out of the cone, but biased: it leaves out
        the curvature of the network); else Hessian-vector products, or Stein's form where events
        have more than 64 elements or there are kinks. ``"gauss_newton"``, ``"hessian"`` or
        ``"stein"``: that one wherever it can be. :meth:`explain` names the one of each factor.
        ``"delta"`` puts *every* factor at the mean of a Gaussian q, whatever its tier: gradient and
        Hessian there, so that steps are Newton's and q ends as Laplace's approximation, the mode
        with minus the Hessian for a precision. The loss is then minus the log joint density at
        the mean, on the unconstrained space and without an entropy; a given ``step_size`` is taken
        as it is, and raises a :class:`~pyro_blr.errors.SaddleError` where q would not be proper.
    :param discrete: what becomes of discrete latents. ``"factorised"``: the guide holds them as
        all others, ``q(z) = prod q(z_n)``, for models whose joint sum is too large (block models,
        Ising models). Else no guide holds them, and they are summed out. ``"mean_field"``
        (the default): expected log factors are summed, which is the bound of variational Bayes EM,
        deterministic where the factors are. ``"marginal"`` (the default under
        ``loss=TraceEnum_ELBO()``): the sum is inside the expectation, at draws of q; its bound is
        tighter. A sum of which a factor is sampled is ``"marginal"`` in any case.
    :param check_every: compare with a trace without any cache at every so many steps.
    :param process_group: of ``torch.distributed``, whose processes have the same model, each with
        its own rows of the data: messages are summed over all of them.
    :param sharded: the plate, or plates, by name, whose elements are spread over the parts of the
        data; that of the observed sites if None.
    :raises ArgumentError: for arguments that cannot be used.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim | None = None,
        loss: ELBO | None = None,
        *,
        step_size: StepSize = "auto",
        blocks: str = "auto",
        on_sampled: str = "warn",
        params: str = "optim",
        temperature: float = 1.0,
        momentum: float = 0.0,
        quad_tol: float = QUAD_TOL,
        num_draws: int | None = None,
        estimator: str = "auto",
        discrete: str | None = None,
        check_every: int | None = None,
        process_group: Any = None,
        sharded: str | Sequence[str] | None = None,
    ) -> None:
        step_size, temperature, momentum, quad_tol, num_draws, check_every = map(
            plain_number, (step_size, temperature, momentum, quad_tol, num_draws, check_every)
        )
        check_arguments(model, guide, optim, loss, step_size, blocks, on_sampled, check_every)
        check_rule(params, temperature, momentum, quad_tol, num_draws, estimator)
        self.discrete, nesting = discrete_of(discrete, loss)
        if estimator == "delta":
            self.discrete = discrete_at_mean(discrete)
        self.model = model
        self.optim = Adam({"lr": 0.01}) if optim is None else optim
        self._take_guide(guide)
        self.params = params
        self.temperature = float(temperature)
        self.momentum = float(momentum)
        self.quad_tol = float(quad_tol)
        self.loss = loss
        self.step_size = step_size
        self.blocks = blocks
        self.check_every = check_every
        self.num_draws = num_draws
        self.estimator = estimator
        self.info = Info()
        self.on_sampled = on_sampled
        # What q does not hold of discrete states (those of a DiscreteHMM) is summed out.
        how = "mean_field" if self.discrete == "factorised" else self.discrete
        kept = getattr(guide, "at_prior", ())
        about = (model, on_sampled, self.temperature, estimator, how, nesting, kept)
        self._builder = EnergyBuilder(*about)
        self._builder.remembers_randomness = check_every is not None
        self.parameters = ModelParameters(params, self.optim)
        is_lifted = isinstance(guide, NaturalGuide) and not guide.has_own_rule
        self.view = guide if is_lifted else None
        self.rule = None
        self._notes: tuple[str, ...] = ()
        self._is_laid_out = False
        self._skips = Skips()
        self.sharded = sharded_plates(sharded)
        if process_group is not None:
            check_group(process_group)
        together = Alone() if process_group is None else Together(process_group)
        self._parted = Parted(together, self.sharded)
        self.begin()
        if process_group is not None:
            self._builder.sharded = self._parted.plates_of

    def _take_guide(self, guide: Any) -> None:
        """Take a guide as it is, and what there is of it to be saved."""
        self.guide = guide
        if self.discrete == "factorised":
            hold_discrete(guide)
        if isinstance(guide, NaturalGuide):
            guide.give_model(self.model)
            self._guide_part = guide
        else:
            self._guide_part = GuideParameters(guide, self.optim)
        # Whether nothing else has moved the guide yet; a natural one tells itself.
        is_new = isinstance(guide, AutoGuide) and guide.prototype_trace is None
        self._is_new_guide = isinstance(guide, NaturalGuide) or is_new

    def __repr__(self) -> str:
        model = getattr(self.model, "__name__", type(self.model).__name__)
        guide = getattr(self.guide, "__name__", type(self.guide).__name__)
        return f"<BLR: model {model}, guide {guide}, {counted(self.num_steps, 'step')} taken>"

    # What SVI has

    @call_of_model
    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take one step and return -ELBO at its entry, in nats.

        Where chance made the ELBO NaN or infinite (a draw, a row of a subsample, a function in the
        model), so that it is finite when the same call is evaluated anew, the step is left out with
        a :class:`~pyro_blr.errors.SkippedStepWarning`, counted in :attr:`skipped`, and NaN is
        returned.

        :raises NonFiniteError: for NaN or infinite data; for too many skipped steps in a row.
        :raises ImproperPosteriorError: for messages outside the cone.
        """
        if (rule := self._rule(args, kwargs)) is not None:
            return self.rule_step(rule, args, kwargs)
        loss, objective = self.advance(args, kwargs)
        if objective is not None:
            self.renew_draws(objective, SAMPLED_TOL)
        return loss

    @call_of_model
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """-ELBO at the guide's state, in nats, without a step."""
        if (rule := self._rule(args, kwargs)) is not None:
            return rule.loss(args, kwargs)
        objective = self._objective(args, kwargs)
        value = objective.value(self.view.naturals())
        objective.check_finite(value)
        return -value.elbo

    # What SVI has not

    @call_of_model
    def fit(
        self,
        *args: Any,
        max_steps: int = 1000,
        tol: float | None = None,
        progress: bool = False,
        **kwargs: Any,
    ) -> Fit:
        """Step until the gap to the (local) optimum is certified, and say why it stopped.

        :param int max_steps: the most steps to take.
        :param float tol: the gap in nats at which the fit has converged; 1e-6 if left out, and
            0.01 where the ELBO is estimated on draws or minibatches.
        :param bool progress: show a progress bar.
        :raises ArgumentError: if the model has an argument of one of these names, or none of the
            name of another keyword.
        """
        reject_reserved(self.model, "fit")
        reject_unknown(self.model, "fit", kwargs)
        max_steps, tol = plain_number(max_steps), plain_number(tol)
        check_limits(max_steps, tol)
        self._fit_call = args, kwargs
        limits: dict[str, Any] = {"max_steps": max_steps, "tol": tol, "progress": progress}
        if (rule := self._rule(args, kwargs)) is not None:
            return run_rule(self, rule, args, kwargs, **limits)
        self._parted.shown = progress
        try:
            return run(self, args, kwargs, **limits)
        finally:
            self._parted.shown = False

    @call_of_model
    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """How each factor is evaluated and each parameter moved, and why; prints as a table."""
        if (rule := self._rule(args, kwargs)) is not None:
            return drawable(rule.explain(args, kwargs), self.model, args, kwargs)
        energy = self._objective(args, kwargs).energy
        parameters = {**_explained(self.view), **self.parameters.explain(energy.traced)}
        call = first_call(args, kwargs)
        return drawable(explain(energy, self._notes, parameters), self.model, *call)

    @call_of_model
    def trace_report(self, *args: Any, max_steps: int = 10, **kwargs: Any) -> TraceReport:
        """Where the time of a fit from here goes, and which factor costs most; prints as tables.

        The steps are taken by a copy, which knows nothing of the data at first: neither the guide
        nor parameters nor random numbers change, and steps of your own are no slower for it. What
        the model itself (or a function for ``step_size``) counts or prints, it does for them too.

        :param int max_steps: the most steps to time.
        :raises ArgumentError: if the model has an argument of that name, or none of the name of
            another keyword.
        """
        self._in_one_place("trace_report", args, kwargs)
        reject_reserved(self.model, "trace_report")
        reject_unknown(self.model, "trace_report", kwargs)
        max_steps = plain_number(max_steps)
        check_limits(max_steps, None)
        return trace_report(self, args, kwargs, max_steps)

    @call_of_model
    def surrogate(self, *args: Any, step_size: float | None = None, **kwargs: Any) -> Surrogate:
        """The conjugate surrogate of the loss that a step from here minimises, next to the loss.

        Its values at any values of the latents, those of the loss, pictures of both; it changes
        nothing.

        :param float step_size: rho in (0, 1]; if None that of the next step where this engine was
            given one, and else 1, with which "auto" begins.
        :raises ArgumentError: if the model has an argument of that name.
        :raises GuideError: for a guide without natural coordinates: one that is known by its draws
            alone, a point mass, a mixture, a covariance of low rank.
        :raises NonFiniteError: for NaN or infinite data.
        :raises SubsampleError: for a minibatch where q has latents of its rows.
        """
        self._in_one_place("surrogate", args, kwargs)
        reject_reserved(self.model, "surrogate")
        reject_unknown(self.model, "surrogate", kwargs)
        if step_size is None:
            step_size = scheduled(self.step_size, self.num_steps) or 1.0
        step_size = plain_number(step_size)
        check_share(step_size)
        self._check_lifted(args, kwargs, "no surrogate")
        return surrogate_of(self.view, self.next_objective(args, kwargs), step_size)

    @call_of_model
    def messages(self, *args: Any, **kwargs: Any) -> dict[str, Natural]:
        """dE_q[log p]/dmean_params at the guide's state, by block name: the sum of all messages.

        :raises GuideError: for a guide that is known by its draws, a point mass, or a mixture.
        """
        self._check_lifted(args, kwargs, "no messages")
        objective = self._objective(args, kwargs)
        messages = objective.natural_messages(self.view.naturals())
        return {block.name: message for block, message in messages.items()}

    @call_of_model
    def discrete_marginals(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The posterior of each discrete latent, and of states that were integrated out.

        By site, along its plates, as Pyro distributions: ``blr.discrete_marginals(x)["z"].probs``
        is the probability of each value in each row, ``.mode`` the most probable one. The states of
        a ``DiscreteHMM`` or a ``GaussianHMM`` observed at ``"x"`` are ``"x.states"``, along time.
        Under ``"mean_field"`` it is q(z) at its optimum, under ``"factorised"`` the guide's own,
        under ``"marginal"`` the mean over draws of q of the posterior at each. Assignments that
        belong together are drawn by Pyro's ``infer_discrete`` with the fitted guide.

        :raises GuideError: for a guide that is known by its draws, a point mass, or a mixture.
        """
        if holds_parts(args, kwargs):
            self._in_one_place("discrete_marginals", args, kwargs)
        no_moments = "no moments under which discrete latents could be summed out"
        instead = "TraceEnum_ELBO().compute_marginals(config_enumerate(model), guide, ...)"
        self._check_lifted(args, kwargs, no_moments, instead)
        objective = self._objective(args, kwargs)
        moments = objective.energy.moments(detached(self.view.naturals()))
        summed_out = discrete_marginals(objective.energy, moments, objective.draws)
        held = [n for n, latent in self.view.latents.items() if latent.site.is_discrete]
        return {**summed_out, **{n: self.guide.marginal(n) for n in held}}

    def average(self) -> None:
        """Write the average of the last half of the noisy steps to the guide.

        For loops of :meth:`step` over minibatches: once at the end, since iterates hover about the
        optimum and their average is nearer to it. Latents of a subsampled plate stay as they are.
        After steps without noise, that still come nearer, or fewer than 32, it changes nothing.
        :meth:`fit` does it where it is better.
        """
        if self.view is not None and self._average.steps >= FEWEST:
            self.view.write(self.averaged())

    def averaged(self) -> dict[Block, Natural]:
        """The natural parameters of q as :meth:`average` would write them."""
        return self._average.of(detached(self.view.naturals()))

    def invalidate(self) -> None:
        """Forget what was computed from constants: data changed in a way that leaves no trace."""
        self._builder.invalidate()

    @property
    def skipped(self) -> int:
        """How many steps were left out because chance made the ELBO NaN or infinite."""
        return self._skips.total


def _explained(view: Any) -> Mapping[str, ParameterExplanation]:
    """How the parameters of a user's own guide move; a guide in natural coordinates has none."""
    return view.explain() if isinstance(view, View) else {}
