# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which elements of linear-Gaussian latents are coupled: by a product of both, or a predictor.

Two elements are coupled if some factor has a term with the product of both (given the other blocks,
random precisions among them), or a predictor with the sum of both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from ..families import FixedScaleNormal
from ..lifting.axes import all_axes, same_address
from ..lifting.polynomial import Polynomial
from ..lifting.predictor import find_predictor
from ..lifting.terms import Atom, Term
from .latents import Latent, Latents
from .traced import Traced


@dataclass(frozen=True)
class Coupling:
    """A product of elements of two sites and the plates along which they may differ."""

    first: str
    second: str
    broken: frozenset[str]


def is_mergeable(latent: Latent) -> bool:
    """Whether a latent is Gaussian as the model has it, with a width of its own."""
    fixed = isinstance(latent.family, FixedScaleNormal)
    return latent.site.gaussian and latent.transform is None and not fixed


def structure(traced: Traced, latents: Latents) -> tuple[list[dict[str, int]], list[Coupling]]:
    """The degrees in the Gaussian sites of every exact term beyond 2, and all couplings."""
    degrees: list[dict[str, int]] = []
    pairs: dict[Coupling, None] = {}
    given = _GivenOthers(latents)
    for site in traced.sites:
        for node in site.lifted_factors:
            polynomial = node.poly
            if polynomial is not None and _splits(polynomial, latents):
                for term in polynomial.terms:
                    degrees.append(_degrees(term, latents))
                    pairs.update(dict.fromkeys(_term_couplings(term, latents)))
                    given.add(term)
            else:
                predictor = find_predictor(node)
                if not isinstance(predictor, str):
                    for scalar in predictor.values:
                        assert scalar.poly is not None
                        pairs.update(dict.fromkeys(_predictor_couplings(scalar.poly, latents)))
    # Terms that are at most quadratic in all sites together stay so under every merge.
    pairs.update(dict.fromkeys(given.couplings))
    return [d for d in degrees if sum(d.values()) > 2], list(pairs)


class _GivenOthers:
    """The couplings of two elements of a product of more, given the others: z and z' in a z z'.

    Not all pairs of a product can share a block, so latents that are in fewer products come first:
    the states of a chain, and not one of them with the coefficient of all.
    """

    def __init__(self, latents: Latents) -> None:
        self.latents = latents
        self._found: dict[Coupling, None] = {}
        self._times: dict[str, int] = {}

    def add(self, term: Term) -> None:
        """The couplings of one product."""
        elements = _elements(term, self.latents)
        if len(elements) < 3:
            return
        for name in {e.site.name for e in elements}:
            self._times[name] = self._times.get(name, 0) + 1
        for first, second in combinations(elements, 2):
            self._found.update(dict.fromkeys(_coupling(first, second, self.latents)))

    @property
    def couplings(self) -> list[Coupling]:
        """All of them, in the order in which they are to be taken."""
        times = self._times
        return sorted(self._found, key=lambda c: max(times[c.first], times[c.second]))


def _splits(polynomial: Polynomial, latents: Latents) -> bool:
    """Whether every term is at most quadratic in each site alone."""
    return all(max(_degrees(t, latents).values(), default=0) <= 2 for t in polynomial.terms)


def _degrees(term: Term, latents: Latents) -> dict[str, int]:
    result: dict[str, int] = {}
    for atom in term.atoms:
        if atom.kind == "power" and is_mergeable(latents[atom.site.name]):
            result[atom.site.name] = result.get(atom.site.name, 0) + int(atom.power)
    return result


def _elements(term: Term, latents: Latents) -> list[Atom]:
    return [
        a
        for a in term.atoms
        if a.kind == "power" and is_mergeable(latents[a.site.name])
        for _ in range(int(a.power))
    ]


def _term_couplings(term: Term, latents: Latents) -> Iterator[Coupling]:
    elements = _elements(term, latents)
    if len(elements) == 2:
        yield from _coupling(elements[0], elements[1], latents)
    if term.exponentials:
        # The factors of exp(a + b x) are one exponent, whose square couples a and b.
        dims = all_axes(w for e in term.exponentials for w in e.where)
        exponent = Polynomial(dims, (t for e in term.exponentials for t in e.terms))
        yield from _predictor_couplings(exponent, latents)


def _predictor_couplings(predictor: Polynomial, latents: Latents) -> Iterator[Coupling]:
    """The square of a predictor couples every element in it with every other."""
    predictor_atoms = [a for t in predictor.terms for a in _elements(t, latents)]
    twins = [a for t in predictor.fresh().terms for a in _elements(t, latents)]
    out = set(predictor.out)
    for i, first in enumerate(predictor_atoms):
        for j, second in enumerate(predictor_atoms[i:], start=i):
            # A contracted axis is summed twice in the square: the second sum runs on its own.
            contracted = any(a not in out for w in second.where for a in getattr(w, "axes", (w,)))
            yield from _coupling(first, twins[j] if contracted else second, latents)


def _coupling(first: Atom, second: Atom, latents: Latents) -> Iterator[Coupling]:
    a, b = latents[first.site.name], latents[second.site.name]
    mine = {name: first.where[d] for d, name in plate_names(a).items()}
    theirs = {name: second.where[d] for d, name in plate_names(b).items()}
    broken = {p for p in mine if p not in theirs or not same_address(mine[p], theirs[p])}
    broken |= {p for p in theirs if p not in mine}
    if a is not b or broken:
        names = sorted((a.name, b.name), key=list(latents).index)
        yield Coupling(names[0], names[1], frozenset(broken))


def plate_names(latent: Latent) -> dict[int, str]:
    """A name for each batch dim: its plate's, or one of its own."""
    return {
        d: latent.plates[d][0] if d in latent.plates else f"{latent.name}[{d}]"
        for d in latent.batch_dims
    }
