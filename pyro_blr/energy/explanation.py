# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which factor is exact, by quadrature or sampled, and why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch.distributions.transforms import ExpTransform

from .. import errors
from ..html_table import html_table, tier
from ..lifting.blocks import Block
from ..lifting.mends import mend_of
from ..text_table import text_table
from .components import components
from .curvature import named
from .eliminated import EliminatedFactor, Part
from .energy import Energy
from .factors import Factor
from .sampled import SampledFactor


@dataclass(frozen=True)
class FactorExplanation:
    """One factor of the model.

    :param str site: the Pyro site.
    :param str tier: ``"exact"``, ``"quadrature"``, ``"sampled"`` or ``"delta"`` (at the mean).
    :param bool conjugate: whether its expectation is linear in the mean parameters of each latent
        that it touches, given the others, so that a step at rho = 1 is the exact coordinate update.
    :param tuple latents: the latents that it depends on.
    :param str reason: what keeps it from the exact tier, or from being conjugate, empty if nothing;
        of a sampled factor also how its messages are estimated.
    :param float error: the quadrature's error in nats an element; 0 where the expectation has a
        closed form, NaN where there is no bound: on the sampled tier it is that of the draws.
    :param str mend: for a sampled factor, the spelling that would keep it deterministic, where one
        is known for the operations that the reason names.
    :param tuple sites: the sites whose densities are in it; several where discrete latents are
        summed out at draws of q.
    """

    site: str
    tier: str
    conjugate: bool
    latents: tuple[str, ...]
    reason: str
    error: float
    mend: str = ""
    sites: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParameterExplanation:
    """One ``pyro.param`` of the model.

    :param str update: ``"em"``, ``"natural"``, ``"optim"``, or ``"fixed"``.
    :param str family: the conjugate family whose mode is its M-step; empty where it has none.
    :param tuple together: the parameters that are maximised together with it, itself among them.
    :param str reason: why it has no M-step, or how else it moves; empty where the update says it.
    """

    name: str
    update: str
    family: str
    together: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        joint = f", with {', '.join(self.together)}" if len(self.together) > 1 else ""
        article = "an" if self.family.startswith("I") else "a"
        why = f"mode of {article} {self.family}{joint}" if self.family else self.reason
        return f"parameter {self.name}: {self.update}" + (f" ({why})" if why else "")


@dataclass(frozen=True)
class Explanation:
    """How each factor is evaluated, and which sites share a block. Prints as a table.

    :param parameters: how each ``pyro.param`` moves, by name.
    :param families: the exponential family of each block; of a guide that is known by its draws the
        law of each site.
    :param summed_out: the discrete latents, which no block holds.
    :param drawer: what draws it; see :meth:`render`.
    """

    factors: tuple[FactorExplanation, ...]
    blocks: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    parameters: Mapping[str, ParameterExplanation] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    summed_out: tuple[str, ...] = ()
    drawer: Callable[..., Any] | None = field(default=None, compare=False)

    def __getitem__(self, site: str) -> FactorExplanation:
        found = [f for f in self.factors if f.site == site]
        if not found:
            raise errors.UnknownNameError(
                f"no factor is of a site {site!r}; there are {[f.site for f in self.factors]}. "
                "Mend: use one of these."
            )
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        # The drawer holds the model and its data, which a pickle need not be able to hold.
        return {**self.__dict__, "drawer": None}

    def render(
        self,
        filename: Any = None,
        *,
        render_distributions: bool = False,
        render_params: bool = True,
        render_deterministic: bool = False,
    ) -> Any:
        """Draw the model's plates and sites, as ``pyro.render_model`` does, with what is said here.

        The frame of a site and the arrows into it are its factor, in the colour of the factor's
        tier. A latent has the name of its family and its block; a parameter how it moves; a
        discrete latent is an octagon, as it is summed out. The model is run once more.

        :param filename: where to write a picture (``.png``, ``.svg``, ``.pdf``, ...) or its source
            (``.dot``); pictures need the program ``dot`` of Graphviz.
        :param bool render_distributions: name the distribution of each site.
        :param bool render_params: draw parameters and modules.
        :param bool render_deterministic: draw ``pyro.deterministic`` sites.
        :return: the ``graphviz.Digraph``, which a notebook shows.
        :raises ArgumentError: if graphviz is missing, or for a model that cannot be drawn.
        """
        if self.drawer is None:
            raise errors.ArgumentError(
                "this explanation came from a pickle, without the model that it is of. Mend: "
                "blr.explain(*args).render()."
            )
        return self.drawer(
            self,
            filename,
            distributions=render_distributions,
            parameters=render_params,
            deterministic=render_deterministic,
        )

    def __str__(self) -> str:
        rows = [_cells(f) for f in self.factors]
        return "\n".join((text_table(HEAD, rows), *self._below))

    __repr__ = __str__

    @property
    def _below(self) -> list[str]:
        """What is said below the table."""
        lines = ["blocks of q: " + ", ".join("{" + ", ".join(b) + "}" for b in self.blocks)]
        lines += [f"mend of {f.site}: {f.mend}" for f in self.factors if f.mend]
        return [*lines, *map(str, self.parameters.values()), *self.notes]

    def _repr_html_(self) -> str:
        rows = [(c[0], tier(c[1]), *c[2:]) for c in map(_cells, self.factors)]
        return html_table("Factors of the model", HEAD, rows, self._below)


HEAD = ("site", "tier", "conjugate", "latents", "error", "reason")


def _cells(factor: FactorExplanation) -> tuple[str, ...]:
    """The row of a factor in the table."""
    return (
        factor.site,
        factor.tier,
        "yes" if factor.conjugate else "no",
        ", ".join(factor.latents) or "-",
        _error_in_words(factor),
        factor.reason,
    )


NO_PARAMETERS: Mapping[str, ParameterExplanation] = {}


def _error_in_words(factor: FactorExplanation) -> str:
    if factor.tier in ("sampled", "delta"):
        return "draws" if factor.tier == "sampled" else "unknown"
    return f"{factor.error:.0e}" if factor.error else "0"


def explain(
    energy: Energy,
    notes: tuple[str, ...] = (),
    parameters: Mapping[str, ParameterExplanation] = NO_PARAMETERS,
) -> Explanation:
    """The explanation of an energy whose quadrature rules were chosen."""
    rows = [row for factor in energy.factors for row in _rows(energy, factor)]
    blocks = tuple(tuple(s.name for s in b.sites) for b in energy.blocks)
    families = tuple(_family(energy, b) for b in energy.blocks)
    summed_out = tuple(s.name for s in energy.traced.sites if s.choice is not None)
    notes = (*notes, *_factorised(energy))
    return Explanation(tuple(rows), blocks, notes, parameters, families, summed_out)


def _family(energy: Energy, block: Block) -> str:
    """The family of a block; for a scale that is Gaussian it is that of its logarithm."""
    maps = [t for s in block.sites if (t := energy.latents[s.name].transform) is not None]
    if not maps:
        return block.family.name
    of_logarithm = len(maps) == len(block.sites) == 1 and isinstance(maps[0], ExpTransform)
    return f"{block.family.name} {'of the logarithm' if of_logarithm else '(unconstrained)'}"


def _factorised(energy: Energy) -> list[str]:
    """What q assumes of the discrete latents that it holds."""
    return [
        f"{block.name} is discrete and factorised in q: {prod(block.batch_shape)} independent "
        f'elements of {len(block.sites[0].levels)} values (discrete="factorised")'
        for block in energy.blocks
        if block.sites[0].is_discrete
    ]


def _rows(energy: Energy, factor: Factor) -> list[FactorExplanation]:
    """A row for a factor; of sites that discrete latents join, one for each of them."""
    if isinstance(factor, EliminatedFactor) and not factor.latents:
        why = f"the states of {factor.name} integrated out of expected log factors (mean_field)"
        return [_row(energy, factor, why, all(map(factor.is_conjugate_in, factor.blocks)))]
    if isinstance(factor, EliminatedFactor):
        why = f"{factor.name} summed out of expected log factors (mean_field)"
        known = {site.name for site in energy.traced.sites}
        rows = []
        for part in factor.parts:
            linear = all(map(part.is_linear_in, part.blocks))
            # Of a hidden Markov model in one site, parts are of the site.
            own = (part.name if part.name in known else factor.name,)
            rows.append(_row(energy, part, why, linear, own=own))
        return rows
    conjugate = factor.tier == "exact" and all(factor.is_linear_in(b) for b in factor.blocks)
    reason = factor.reason
    if factor.tier == "exact" and not conjugate:
        curved = [
            b.name for b in energy.blocks if b in factor.blocks and not factor.is_linear_in(b)
        ]
        reason = f"closed form, but not linear in the mean parameters of {', '.join(curved)}"
    mend = mend_of(reason) if factor.tier == "sampled" else None
    if isinstance(factor, SampledFactor):
        ways = {b: factor.ways[b] for b in energy.blocks if b in factor.ways}
        reason = f"{reason}; {named(ways)}"
    return [_row(energy, factor, reason, conjugate, mend or "", _joined(energy, factor))]


def _joined(energy: Energy, factor: Factor) -> tuple[str, ...]:
    """The sites of a factor: those that discrete latents join are one at draws of q."""
    if isinstance(factor, SampledFactor) and energy.traced.has_choices:
        for component in components(energy.traced.sites)[1]:
            if component.name == factor.name:
                return tuple(s.name for s in component.sites)
    return (factor.name,)


def _row(
    energy: Energy,
    factor: Factor | Part,
    reason: str,
    conjugate: bool,
    mend: str = "",
    own: tuple[str, ...] = (),
) -> FactorExplanation:
    touched = _touched(energy, factor.name)
    sites = tuple(
        s.name
        for b in energy.blocks
        if b in factor.blocks
        for s in b.sites
        if s.name in touched or not touched
    )
    conjugate = conjugate and factor.tier == "exact"
    return FactorExplanation(
        *(factor.name, factor.tier, conjugate, sites, reason, factor.error, mend),
        own or (factor.name,),
    )


def _touched(energy: Energy, name: str) -> set[str]:
    for site in energy.traced.sites:
        if site.name == name:
            return set(site.touches)
    return set()
