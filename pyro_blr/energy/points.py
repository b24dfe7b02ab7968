# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which parameters have an M-step in closed form: those in whose statistics every factor is linear.

The model is run with its parameters lifted, so that each factor shows through which statistics it
depends on them, as it does for latents. A parameter is a *point* if every factor that it enters is
exact and linear in the statistics of one conjugate family, and the block of that family is the
smallest that has this property: the elements of a real parameter are maximised one by one, by rows
or columns, or all together, as they are coupled; parameters that are coupled are maximised together
where the log joint is quadratic in them together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import prod

import torch
from torch import Tensor

from ..families import Beta, Dirichlet, ExponentialFamily, Gamma, MultivariateNormal, Normal
from ..lifting.blocks import Block, Placement
from ..lifting.expectation import Layout, is_linear
from ..lifting.modes import (
    BetaPoint,
    DirichletPoint,
    GammaPoint,
    ModifiedHalfNormalPoint,
    MultivariateNormalPoint,
    NormalPoint,
    PointFamily,
)
from ..lifting.points import PointBlock
from ..lifting.polynomial import Polynomial
from ..lifting.tensor import LiftedTensor
from ..lifting.terms import LatentSite
from .at_prior import block_of
from .latents import cut
from .merging import MAX_BLOCK_SIZE
from .parameters import LiftedParameter, lifted_forms
from .traced import Traced

TraceLifted = Callable[[Mapping[str, LiftedParameter]], Traced]


@dataclass(frozen=True)
class Points:
    """The parameters that have an M-step, and why the others have none.

    :param lifted: how each of them is given to the model; and each of those that no factor of the
        call depended on, to see when one does.
    :param blocks: what is maximised together, in the order of an M-step.
    :param reasons: why a parameter is not among them, by name.
    """

    lifted: Mapping[str, LiftedParameter] = field(default_factory=dict)
    blocks: tuple[PointBlock, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, PointBlock]:
        """The block of each parameter that has one."""
        return {s.name: b for b in self.blocks for s in b.sites}

    def are_met_by(self, traced: Traced) -> bool:
        """Whether the factors of a call depend on no other lifted parameters than these."""
        unused = set(self.lifted) - set(self.by_name)
        return not unused or not any(unused & site.touches for site in traced.sites)


#: Why a parameter is no point, where it may become one in another call.
UNUSED = "no factor of the call depends on the tensor that pyro.param gives"


def choose_points(plain: Traced, layout: Layout, trace: TraceLifted) -> Points:
    """The points of a model.

    :param plain: a run of the model without lifted parameters.
    :param layout: the blocks of q.
    :param trace: runs the model with some parameters lifted.
    """
    layout = {**layout, **{name: block_of(noise) for name, noise in plain.noise.items()}}
    reasons: dict[str, str] = {}
    forms: dict[str, tuple[LiftedParameter, ...]] = {}
    for name, parameter in plain.parameters.items():
        found = lifted_forms(parameter)
        if not parameter.is_free:
            reasons[name] = "it does not require a gradient"
        elif "$$$" in name:  # pyro.module puts what it gets into the user's own module
            reasons[name] = "it belongs to a module"
        elif not found:
            reasons[name] = f"no family on {parameter.constraint} has a mode in closed form"
        else:
            forms[name] = found
    all_at_once = {name: found[0] for name, found in forms.items()}
    blocks, refused = _attempt(all_at_once, layout, trace)
    if set(refused.values()) <= {UNUSED}:
        return Points(all_at_once, blocks, {**reasons, **refused})
    # One after the other: the first refusal may be the fault of another parameter.
    lifted: dict[str, LiftedParameter] = {}
    for name, found in forms.items():
        for form in found:
            _, refused = _attempt({**lifted, name: form}, layout, trace)
            if set(refused.values()) <= {UNUSED}:
                lifted[name] = form
                reasons.pop(name, None)
                break
            reasons.setdefault(name, refused.get(name) or next(iter(refused.values())))
    blocks, unused = _attempt(lifted, layout, trace)
    return Points(lifted, blocks, {**reasons, **unused})


def _attempt(
    lifted: Mapping[str, LiftedParameter], layout: Layout, trace: TraceLifted
) -> tuple[tuple[PointBlock, ...], dict[str, str]]:
    """The blocks of lifted parameters, and why some of them have none."""
    if not lifted:
        return (), {}
    try:
        traced = trace(lifted)
    except Exception as error:  # the model runs with plain parameters: whatever it is, it is theirs
        return (), dict.fromkeys(lifted, f"the model needs its value ({type(error).__name__})")
    nodes = {f"{s.name}{i or ''}": f for s in traced.sites for i, f in enumerate(s.lifted_factors)}
    full = {**layout, **{n: _any_block(p) for n, p in lifted.items()}}
    chosen: list[PointBlock] = []
    refused: dict[str, str] = {}
    for name, parameter in lifted.items():
        touching = {s: n for s, n in nodes.items() if name in n.site_names}
        block = _block(parameter, touching, full)
        if isinstance(block, PointBlock):
            chosen.append(block)
        else:
            refused[name] = block
    polynomials = [n.poly for n in nodes.values() if n.poly is not None]
    return _joined(chosen, polynomials, layout), refused


def _block(
    parameter: LiftedParameter, touching: Mapping[str, LiftedTensor], layout: Layout
) -> PointBlock | str:
    """The smallest block in whose statistics every factor is linear, or why there is none."""
    if not touching:
        return UNUSED
    for site, node in touching.items():
        if node.poly is None:
            return f"factor {site!r} is no polynomial in it: {node.reason}"
    polynomials = [n.poly for n in touching.values() if n.poly is not None]
    reason = "it enters by its logarithm alone"
    for block in _blocks_of(parameter, polynomials):
        trial = {**layout, parameter.name: block}
        curved = [
            site
            for site, node in touching.items()
            if node.poly is not None and not is_linear(node.poly, trial, block)
        ]
        if not curved:
            return block
        reason = f"factor {curved[0]!r} is not linear in the statistics of its {block.point.name}"
    return reason


def _blocks_of(parameter: LiftedParameter, values: Sequence[Polynomial]) -> Iterator[PointBlock]:
    """Blocks that may hold a parameter, the smallest first."""
    site = parameter.site
    if parameter.kind == "real":
        yield from _gaussian_blocks(site)
    elif parameter.kind == "simplex":
        yield _elementwise(site, Dirichlet(), DirichletPoint())
    elif parameter.kind == "proportion":
        yield _elementwise(site, Beta(), BetaPoint())
    else:
        powers = _powers(site, values)
        for power in powers:
            yield _elementwise(site, Gamma(), GammaPoint(power))
        for power in powers:
            if 2 * power in powers:
                yield _elementwise(site, Gamma(), ModifiedHalfNormalPoint(power))


def _any_block(parameter: LiftedParameter) -> PointBlock:
    """A block of the right kind, for a parameter that another one's terms hold as well."""
    if parameter.kind in ("positive", "log"):
        return _elementwise(parameter.site, Gamma(), GammaPoint(1.0))
    return next(_blocks_of(parameter, ()))


def _powers(site: LatentSite, values: Sequence[Polynomial]) -> tuple[float, ...]:
    """The powers by which the terms of some polynomials depend on a site, each once."""
    totals = [
        sum(a.power for a in term.atoms if a.site is site and a.kind == "power")
        for value in values
        for term in value.terms
    ]
    return tuple(dict.fromkeys(float(p) for p in totals if p))


def _elementwise(site: LatentSite, family: ExponentialFamily, point: PointFamily) -> PointBlock:
    batch = tuple(range(len(site.shape) - site.event_dim))
    shape = tuple(site.shape[d] for d in batch)
    return PointBlock(
        site.name, family, (site,), shape, None, {site.name: Placement(batch)}, point=point
    )


def _gaussian_blocks(site: LatentSite) -> Iterator[PointBlock]:
    """Elements one by one; then joined along ever more dims, as far as the limit allows."""
    yield _elementwise(site, Normal(), NormalPoint())
    dims = range(len(site.shape))
    subsets = [s for count in dims for s in combinations(dims, count)]
    for batch in sorted(subsets, key=lambda s: _event_size(site, s)):
        if _event_size(site, batch) <= MAX_BLOCK_SIZE:
            yield _joint((site,), (batch,))


def _event_size(site: LatentSite, batch: tuple[int, ...]) -> int:
    return prod(size for d, size in enumerate(site.shape) if d not in batch)


def _joint(sites: tuple[LatentSite, ...], batches: tuple[tuple[int, ...], ...]) -> PointBlock:
    """Sites laid one behind the other along one event dim, the given dims of each in common."""
    placements: dict[str, Placement] = {}
    offset = 0
    for site, batch in zip(sites, batches, strict=True):
        placements[site.name] = Placement(batch, offset)
        offset += _event_size(site, batch)
    shape = tuple(sites[0].shape[d] for d in batches[0])
    name = "+".join(s.name for s in sites)
    point = MultivariateNormalPoint()
    return PointBlock(name, MultivariateNormal(), sites, shape, offset, placements, point=point)


def _joined(
    blocks: list[PointBlock], values: Sequence[Polynomial], layout: Layout
) -> tuple[PointBlock, ...]:
    """Gaussian points that are coupled put into one block, where all of it stays quadratic."""
    current = list(blocks)
    for value in values:
        for term in value.terms:
            names = {a.site.name for a in term.atoms}
            coupled = [b for b in current if _is_gaussian(b) and names & set(b.placements)]
            if len(coupled) < 2:
                continue
            rest = [b for b in current if not any(b is c for c in coupled)]
            joint = _joint_block(coupled, values, {**layout, **_layout(rest)})
            if joint is not None:
                first = min(current.index(b) for b in coupled)
                current = [*current[:first], joint, *(b for b in current[first:] if b in rest)]
    return tuple(current)


def _is_gaussian(block: PointBlock) -> bool:
    return isinstance(block.point, NormalPoint | MultivariateNormalPoint)


def _layout(blocks: Sequence[PointBlock]) -> dict[str, Block]:
    return {s.name: b for b in blocks for s in b.sites}


def _joint_block(
    blocks: list[PointBlock], values: Sequence[Polynomial], layout: Layout
) -> PointBlock | None:
    """The smallest joint block, batched along one dim that all have in common if there is one."""
    sites = tuple(s for b in blocks for s in b.sites)
    shared = product(*(range(len(s.shape)) for s in sites))
    batches = [tuple((d,) for d in dims) for dims in shared if _common_size(sites, dims)]
    for batch in (*batches, ((),) * len(sites)):
        joint = _joint(sites, batch)
        if joint.event_size is None or joint.event_size > MAX_BLOCK_SIZE:
            continue
        trial = {**layout, **_layout([joint])}
        if all(is_linear(v, trial, joint) for v in values if set(v.sites) & set(sites)):
            return joint
    return None


def _common_size(sites: tuple[LatentSite, ...], dims: tuple[int, ...]) -> bool:
    return len({s.shape[d] for s, d in zip(sites, dims, strict=True)}) == 1


# Between the values of parameters and the points of blocks


def packed(block: PointBlock, traced: Traced) -> Tensor:
    """A block's point from its parameters' present values. # shape: (*batch[, event_size])"""
    parts = []
    for site in block.sites:
        variable = traced.lifted[site.name].variable(traced.parameters[site.name].now)
        if block.event_size is None:
            return variable
        order = (*block.placements[site.name].batch_dims, *block.event_dims(site))
        parts.append(variable.permute(order).reshape(*block.batch_shape, -1))
    return torch.cat(parts, -1)


def write(block: PointBlock, point: Tensor, traced: Traced) -> None:
    """Set a block's parameters to a point, in the param store."""
    for site in block.sites:
        variable = cut(block, site, point, len(block.batch_shape))
        traced.parameters[site.name].write(traced.lifted[site.name].value(variable))
