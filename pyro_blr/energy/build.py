# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From a traced model to its factors: the tier of each is the best that its density allows."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..lifting import constants
from ..lifting.blocks import Block
from ..lifting.elementwise import has_kinks, jumping_operations
from ..lifting.expectation import Layout, compile_plan
from ..lifting.fused import FusedPlan
from ..lifting.keys import constants_of, key_of
from ..lifting.laws import JointPlan, joint_plan
from ..lifting.plan import Plan
from ..lifting.polynomial import Polynomial, polynomial
from ..lifting.predictor import Predictor, find_predictor
from ..lifting.recall import recalled
from ..lifting.tensor import LiftedTensor
from ..lifting.terms import NotPolynomial
from ..shapes import broadcast_shapes
from .components import Component, build_component, components
from .curvature import ways_of
from .eliminated import ConstantPart, EliminatedFactor, ExactPart, Part, QuadraturePart, Role
from .factors import (
    ConstantFactor,
    ExactFactor,
    Factor,
    QuadratureFactor,
    Summed,
)
from .hidden_gaussian import ChainIntegral, GaussianChain
from .hidden_markov import ForwardSum, HiddenChain, Sequences
from .sampled import SampledFactor
from .traced import TracedSite
from .weighted import WeightedFactor, no_expectation


def build_factors(
    sites: Sequence[TracedSite], layout: Layout, estimator: str, discrete: str
) -> list[Factor]:
    """The factors of all sites; sites that discrete latents join are one.

    :param discrete: ``"mean_field"`` or ``"marginal"``, as in :class:`~pyro_blr.BLR`.
    """
    if estimator == "delta":
        discrete = "marginal"
    plain, joined = components(sites)
    factors = [
        _of_chain(site, site.chain, layout, estimator)
        if site.chain is not None and discrete == "mean_field"
        else build_factor(site, layout, estimator)
        for site in plain
    ]
    return factors + [_of_component(c, layout, estimator, discrete) for c in joined]


def _of_component(component: Component, layout: Layout, estimator: str, discrete: str) -> Factor:
    """The factor of sites with discrete latents in common."""

    def build_part(site: TracedSite, role: Role) -> Part | str:
        if discrete == "marginal" and isinstance(site.log_prob, LiftedTensor):
            return MARGINAL
        return _part(site.name, site.log_prob, layout, role)

    def at_draws(reason: str, node: LiftedTensor) -> Factor:
        if discrete == "marginal":
            why = f'{component.name} summed out at each draw, as discrete="marginal" asks'
        else:
            why = f"{component.name} summed out at each draw, since a part is sampled: {reason}"
        blocks = frozenset(layout[s.name] for s in node.sites)
        return _sampled(component.name, blocks, why, Summed(node, None, 1.0), estimator)

    return build_component(component, build_part, at_draws)


MARGINAL = "marginal"


#: What a part has beside its log factor, by its name; see :class:`~.eliminated.Part`.
Given = dict[str, tuple[Any, Role]]


def _of_chain(
    site: TracedSite, chain: HiddenChain | GaussianChain, layout: Layout, estimator: str
) -> Factor:
    """The factor of a hidden Markov model: its states summed out of expected log factors."""

    def at_draws(reason: str) -> Factor:
        return build_factor(replace(site, chain=None, no_chain=reason), layout, estimator)

    sum_out: ForwardSum | ChainIntegral
    latents: tuple[str, ...] = ()
    count = Sequences(site.log_prob.shape, site.mask, site.scale)
    if isinstance(chain, HiddenChain):
        given, latents = _log_factors(site.name, chain), (f"{site.name}.states",)
        sum_out = ForwardSum(count)
    else:
        given = _coefficients(site.name, chain)
        sum_out = ChainIntegral(chain, count)
    parts: list[Part] = []
    for own, (log_factor, role) in given.items():
        part = _part(own, log_factor, layout, role)
        if isinstance(part, str):
            return at_draws(part)
        parts.append(part)
    blocks = frozenset(b for p in parts for b in p.blocks)
    return EliminatedFactor(site.name, blocks, "", parts, sum_out, latents, at_draws)


def _log_factors(name: str, chain: HiddenChain) -> Given:
    """Of discrete states: of S about one takes part, of S * S transitions one."""
    states = chain.states
    return {
        f"{name}.initial": (chain.initial, Role(states=states, is_prior=True)),
        f"{name}.transition": (chain.transition, Role(states=states**2, is_prior=True)),
        name: (chain.observation, Role(states=states, choice=-1)),
    }


def _coefficients(name: str, chain: GaussianChain) -> Given:
    return {f"{name}.{law}.{n}": (c, Role()) for (law, n), c in chain.coefficients.items()}


def _part(name: str, node: Any, layout: Layout, role: Role) -> Part | str:
    """A log factor on its best deterministic tier, or why there is none."""
    if not isinstance(node, LiftedTensor):
        return ConstantPart(name, frozenset(), role, value=torch.as_tensor(node))
    blocks = frozenset(layout[s.name] for s in node.sites)
    reason = node.reason
    if node.poly is not None:
        plan, free = _plan(node.poly, layout)
        if isinstance(plan, Plan):
            fused = _cached(("fused", id(plan)), lambda: FusedPlan(plan), (plan,))
            return ExactPart(name, plan.blocks, role, plan=plan, free=free, fused=fused)
        reason = plan
    found = _quadrature(name, node, blocks, reason, Summed(node, None, 1.0), layout)
    if isinstance(found, str):
        return found
    return QuadraturePart(name, blocks, role, factor=found)


def build_factor(site: TracedSite, layout: Layout, estimator: str = "auto") -> Factor:
    """The factor of a site on its best tier.

    :param estimator: of a sampled factor's messages, as in :class:`~pyro_blr.BLR`.
    """
    if not isinstance(site.log_prob, LiftedTensor):
        return _constant_factor(site)
    node = site.log_prob
    reason = f"{site.no_chain}; {node.reason}" if site.no_chain else node.reason
    if estimator == "delta":
        own = frozenset(layout[s.name] for s in node.sites)
        return _sampled(site.name, own, "", Summed(node, site.mask, site.scale), estimator)
    if node.poly is not None:
        poly = node.poly
        parts = (poly, site.mask, site.scale)
        summed = recalled("summed", lambda: summed_polynomial(poly, site), parts)
        plan, free = _plan(summed, layout)
        if isinstance(plan, Plan):
            return ExactFactor(site.name, plan.blocks, "", plan, free)
        reason = plan
    blocks = frozenset(layout[s.name] for s in node.sites)
    summed_node = Summed(node, site.mask, site.scale)
    if any(s.is_discrete for s in node.sites):
        return _weighted(site.name, node, blocks, reason, summed_node, layout)
    found = _quadrature(site.name, node, blocks, reason, summed_node, layout)
    if isinstance(found, str):
        return _sampled(site.name, blocks, found, summed_node, estimator)
    return found


def _weighted(
    name: str,
    node: LiftedTensor,
    blocks: frozenset[Block],
    reason: str,
    summed: Summed,
    layout: Layout,
) -> Factor:
    """The factor of discrete latents that q holds, by quadrature at each of their values.

    :raises DiscreteLatentError: if it has none.
    """
    found = node.enumeration
    if found is None:
        raise no_expectation(name, node, reason)
    part = _part(name, found.given, layout, Role())
    weights, _ = _plan(found.weights, layout)
    if not isinstance(part, QuadraturePart) or isinstance(weights, str):
        raise no_expectation(name, node, part if isinstance(part, str) else reason)
    return WeightedFactor(name, blocks, reason, weights, part, summed)


def _quadrature(
    name: str,
    node: LiftedTensor,
    blocks: frozenset[Block],
    reason: str,
    summed: Summed,
    layout: Layout,
) -> QuadratureFactor | str:
    """The factor over one or two Gaussian scalars, or why it is none."""
    predictor = find_predictor(node)
    joint = predictor if isinstance(predictor, str) else _joint_plan(predictor, layout)
    if isinstance(predictor, str) or isinstance(joint, str):
        # A density with a polynomial is off the exact tier for its moment; else for its operation.
        why = f"{joint}; {node.reason}" if node.reason not in ("", joint) else str(joint)
        return reason if node.poly is not None else why
    if len(predictor.scalars) > 1:
        reason += "; a function of two Gaussian scalars"
    constants_of = tuple(key_of(p)[1] for p in _polynomials(predictor))
    return QuadratureFactor(name, blocks, reason, predictor, joint, constants_of, summed)


def quadrature_of(site: TracedSite, layout: Layout) -> QuadratureFactor | None:
    """The factor of a site over one or two Gaussian scalars, also where a better tier serves it."""
    node = site.log_prob
    assert isinstance(node, LiftedTensor)
    blocks = frozenset(layout[s.name] for s in node.sites)
    summed = Summed(node, site.mask, site.scale)
    found = _quadrature(site.name, node, blocks, "", summed, layout)
    return None if isinstance(found, str) else found


def resample(factor: QuadratureFactor, estimator: str = "auto") -> SampledFactor:
    """The factor when no quadrature rule is good enough."""
    reason = f"{factor.refusal}; {factor.reason}"
    return _sampled(factor.name, factor.blocks, reason, factor.summed, estimator)


def _sampled(
    name: str, blocks: frozenset[Block], reason: str, summed: Summed, estimator: str
) -> SampledFactor:
    """A sampled factor, which says so if draws see only a part of its gradient."""
    jumps = jumping_operations(summed.node)
    if jumps:
        listed = ", ".join(f"`{j}`" for j in jumps)
        reason += (
            f"; {listed} may jump, and the part of the gradient at a jump is not seen by draws"
        )
    kinks = has_kinks(summed.node)
    ways = ways_of(summed.node, blocks, estimator, bool(jumps), kinks)
    return SampledFactor(name, blocks, reason, summed, jumps, ways)


def _constant_factor(site: TracedSite) -> ConstantFactor:
    log_prob = site.log_prob
    value, _ = Summed(log_prob, site.mask, site.scale)(log_prob)
    return ConstantFactor(site.name, frozenset(), "", value)


def summed_polynomial(value: Polynomial, site: TracedSite) -> Polynomial:
    """Mask and scale (by rows, if the scale has rows), sum over the batch dims."""
    if site.mask is False:
        return Polynomial((), ())
    if isinstance(site.mask, Tensor):
        shape = broadcast_shapes(value.shape, site.mask.shape)
        mask = constants.memo(_as_double, (site.mask,))
        value = value.expand_to(shape) * polynomial(mask)
    if isinstance(site.scale, Tensor):
        value = value.expand_to(broadcast_shapes(value.shape, site.scale.shape))
        return (value * polynomial(site.scale)).sum_all()
    summed = value.sum_all()
    return summed if site.scale == 1 else summed * float(site.scale)


def _as_double(mask: Tensor) -> Tensor:
    return mask.double()


def _plan(value: Polynomial, layout: Layout) -> tuple[Plan | str, tuple[Tensor, ...]]:
    """The compiled expectation, or why there is none, and the free constants of this call.

    It is compiled once for the same constants.
    """
    free: tuple[Tensor, ...] = ()
    held: tuple[Any, ...] = (value,)
    name: Hashable = id(value)
    if not value.is_kept:
        (name, free), held = key_of(value), _held(value)
    key = ("plan", name, _layout_key(value, layout))
    return _cached(key, lambda: _compiled(value, layout), held), free


def _compiled(value: Polynomial, layout: Layout) -> Plan | str:
    try:
        return compile_plan(value, layout)
    except NotPolynomial as error:
        return str(error)


def _layout_key(value: Polynomial, layout: Layout) -> Hashable:
    return tuple((s.name, layout[s.name]) for s in value.sites)


def _held(value: Polynomial) -> tuple[Any, ...]:
    return constants_of(value.terms)


def _cached(key: Hashable, compute: Any, held: tuple[Any, ...]) -> Any:
    cache = constants.active()
    return compute() if cache is None else cache.lookup(key, compute, held)


def _polynomials(predictor: Predictor) -> tuple[Polynomial, ...]:
    """The scalars of a predictor as polynomials."""
    return tuple(node.poly for node in predictor.values if node.poly is not None)


def _joint_plan(predictor: Predictor, layout: Layout) -> JointPlan | str:
    """The plan of the scalars' joint law, or why there is none."""
    values = _polynomials(predictor)
    structures = tuple(key_of(value)[0] for value in values)
    layouts = tuple(_layout_key(value, layout) for value in values)
    key = ("scalars", structures, layouts, predictor.aligned)

    def compute() -> JointPlan | str:
        try:
            return joint_plan(values, layout, predictor.aligned)
        except NotPolynomial as error:
            return str(error)

    return _cached(key, compute, tuple(t for v in values for t in _held(v)))  # type: ignore[no-any-return]
