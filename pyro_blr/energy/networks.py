# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Latents whose elements q holds independent: weights of networks, and vectors too long for more.

A full covariance over a network's weights takes as many draws as there are weights to be seen at
all, and their square in memory; what its optimum gains is correlations within one of many modes.
"""

from collections.abc import Collection, Iterator
from math import prod

from ..estimators.hessians import EXACT
from ..families import Normal
from ..lifting.blocks import Block, Placement
from ..lifting.expectation import Layout, check_moments
from ..lifting.outputs import is_network
from ..lifting.predictor import find_predictor
from ..lifting.tensor import LiftedTensor
from ..lifting.terms import Atom, NotPolynomial
from .latents import Latent, Latents
from .merging import MAX_BLOCK_SIZE
from .traced import Traced


def independent_blocks(
    traced: Traced, latents: Latents, named: Collection[str] = ()
) -> tuple[list[Block], tuple[str, ...]]:
    """The blocks of latents whose elements are independent under q, and notes on them.

    They are the weights of a network of more than 128 elements in all (up to that many, Hessians
    are exact), and vectors of more than 1024 elements of whose couplings nothing is known but that
    a sampled factor may have them.

    :param named: latents whose family was named, which are left as they are.
    """
    layout = {name: latent.block() for name, latent in latents.items()}
    vectors = {n for n, b in layout.items() if b.gaussian and b.event_size is not None} - set(named)
    found: dict[str, None] = {}
    notes = []
    sampled = list(_sampled(traced, layout))
    for site, node in sampled:
        names = [n for n in node.site_names if n in vectors]
        count = sum(_size(latents[n]) for n in names)
        if not is_network(node) or count <= EXACT:
            continue
        found.update(dict.fromkeys(names))
        notes.append(
            f"{site}: a network of {count} weights, which q holds independent; families= has a "
            "MultivariateNormal for those that are to have a full covariance"
        )
    unseen = {n for _, node in sampled for n in node.site_names}
    for name in _uncoupled(traced, layout, unseen & (vectors - found.keys())):
        found[name] = None
        notes.append(
            f"{name}: {_size(latents[name])} elements, of whose couplings only a sampled factor "
            "knows; q holds them independent"
        )
    return [independent_block(latents[n]) for n in latents if n in found], tuple(notes)


def independent_block(latent: Latent) -> Block:
    """A latent's block with a variance for each element, and no matrix."""
    site = latent.site
    places = {site.name: Placement(tuple(range(len(site.shape))))}
    return Block(site.name, Normal(), (site,), site.shape, None, places)


def _size(latent: Latent) -> int:
    return prod(latent.site.shape)


def _sampled(traced: Traced, layout: Layout) -> Iterator[tuple[str, LiftedTensor]]:
    """The log densities that are neither exact nor by quadrature."""
    for site in traced.sites:
        for node in site.lifted_factors:
            if not _has_moments(node, layout) and isinstance(find_predictor(node), str):
                yield site.name, node


def _has_moments(node: LiftedTensor, layout: Layout) -> bool:
    if node.poly is None:
        return False
    try:
        check_moments(node.poly, layout)
    except NotPolynomial:
        return False
    return True


def _uncoupled(traced: Traced, layout: Layout, names: set[str]) -> list[str]:
    """Of latents in sampled factors those that are long, and coupled in no other."""
    long = {n for n in names if (layout[n].event_size or 1) > MAX_BLOCK_SIZE}
    if not long:
        return []
    coupled = {n for site in traced.sites for f in site.lifted_factors for n in _coupled(f)}
    return sorted(long - coupled)


def _coupled(node: LiftedTensor) -> Iterator[str]:
    """The latents of which a log density is known to couple two elements."""
    if node.poly is not None:
        for term in node.poly.terms:
            first: dict[str, Atom] = {}
            for atom in term.atoms:
                other = first.setdefault(atom.site.name, atom)
                if other.where != atom.where:
                    yield atom.site.name
    elif not isinstance(find_predictor(node), str):
        yield from node.site_names
