# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Guides with a rule of their own: whether one has, and the steps that its rule takes."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from . import errors
from .arguments import check_lifted_options
from .chunks import first_call
from .engine import Engine
from .guide_parameters import GuideParameters
from .guides.natural_guide import NaturalGuide
from .guides.views import parameters_of_points
from .info import Info
from .random_state import same_random_state
from .refusals import without_naturals
from .rules import MixtureRule, Rule, choose
from .steps.schedule import scheduled


class WithRule(Engine):
    """An engine that also serves a guide whose latents cannot be lifted, or that is a mixture."""

    params: str
    estimator: str
    #: The rule of a guide whose latents cannot be lifted.
    rule: Rule | None

    def _rule(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rule | None:
        """The rule of a guide whose latents cannot be lifted; None where they can.

        The first call finds it, or the guide's view.
        """
        if self.view is None and self.rule is None:
            call = first_call(args, kwargs)
            self._take_copied()
            with same_random_state() if self._is_resuming else nullcontext():
                chosen = choose(
                    *(self.guide, self._builder, self.loss, self.optim),
                    *(self.sampling.noisy_count, self._hessian),
                    self._mixture_rule(),
                    *call,
                )
            if isinstance(chosen, Rule):
                self._check_rule(chosen, args, kwargs)
                check_lifted_options(self.params, self.momentum, self.estimator, chosen.what)
                self._builder.report_drawn(chosen.reason)
                self.rule, self._is_resuming = chosen, False
            else:
                self.view = chosen
                self.parameters.of_guide = parameters_of_points(chosen)
        if self.rule is not None:
            self._check_rule(self.rule, args, kwargs)
        if isinstance(self._guide_part, GuideParameters):
            self._guide_part.take_up(*first_call(args, kwargs))
        return self.rule

    def _mixture_rule(self) -> MixtureRule | None:
        """The rule of a mixture of Gaussians; None for any other guide."""
        if not (isinstance(self.guide, NaturalGuide) and self.guide.has_own_rule):
            return None
        self._builder.refuse_draws("its components have points of their own at each step")
        made = self.guide, self._builder, self.optim, self._mixture, self.sampling.fixed
        return MixtureRule(*made)

    def _check_rule(self, rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a rule of its own where the data are in parts."""
        if self._is_parted(args, kwargs):
            raise without_naturals(rule, "no messages that could be summed over parts of the data")

    def _check_lifted(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], so: str, *mend: str
    ) -> None:
        """Refuse a guide that has a rule of its own, for what needs natural parameters.

        :param so: what there is not; see :func:`without_naturals`.
        """
        rule = self._rule(args, kwargs)
        if rule is not None:
            raise without_naturals(rule, so, *mend)

    def rule_step(self, rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """One step of such a guide, or none: its loss."""
        try:
            loss = rule.step(
                args, kwargs, scheduled(self.step_size, self.num_steps), self.num_steps
            )
        except errors.NonFiniteError as error:
            self._skips.skip(error, lambda: _is_evaluated(rule, args, kwargs))
            self.info = Info()
            return math.nan
        self._skips.in_a_row = 0
        self.num_steps += 1
        self.info = Info(loss, rule.safety)
        return loss


def _is_evaluated(rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether what a step of a rule takes is finite when it is evaluated anew."""
    try:
        rule.probe(args, kwargs)
    except errors.NonFiniteError:
        return False
    return True
