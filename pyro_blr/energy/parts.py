# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data in parts: which factors every part shares, and which are a part's own.

    ELBO = (factors that all parts share, once) + sum over parts (factors under the sharded plates)

A plate says that its elements are independent given all else, so that its factors are a sum over
any parts that its elements are split into: rows on several processes, chunks of a file, batches of
a stream. What is under no such plate (priors of global latents) would be counted once for each part
if it were summed.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .. import errors
from .components import components
from .traced import Traced, TracedSite


@dataclass(frozen=True)
class Share:
    """Which terms of the ELBO an energy counts.

    :param factors: by name; all of them if None.
    :param entropies: the latents whose entropy is among them, by name; all of them if None.
    """

    factors: frozenset[str] | None = None
    entropies: frozenset[str] | None = None


WHOLE = Share()


@dataclass(frozen=True)
class Split:
    """The factors of a model whose data are in parts.

    :param plates: whose elements are spread over the parts.
    :param shared: the factors that are the same in all parts, by name.
    :param own: the factors under the plates, by name.
    :param local: the latents under the plates, those that are summed out among them.
    """

    plates: frozenset[str]
    shared: frozenset[str]
    own: frozenset[str]
    local: frozenset[str]

    def share(self, is_first: bool) -> Share:
        """What a part counts: its own factors, and one of the parts what all of them share."""
        if is_first:
            return Share(self.own | self.shared)
        return Share(self.own, self.local)


def split(traced: Traced, plates: Collection[str] = (), option: str = "sharded") -> Split:
    """The factors of a run by whether the parts share them.

    :param plates: the sharded plates by name; if none, those that observed sites are in.
    :param option: the argument by which the user names them, for errors.
    :raises ArgumentError: if it is not known which plates are meant.
    :raises DiscreteLatentError: for a discrete latent of all parts whose sum takes in the data.
    """
    chosen = frozenset(plates) if plates else _found(traced, option)
    _check_named(traced, chosen, option)
    plain, joined = components(traced.sites)
    inside = {s.name for s in traced.sites if s.plates & chosen}
    own = {s.name for s in plain if s.name in inside}
    shared = {s.name for s in plain} - own
    for component in joined:
        names = {s.name for s in component.sites}
        if names <= inside:
            own.add(component.name)
        elif names & inside:
            raise _spanning(component.latents, sorted(chosen))
        else:
            shared.add(component.name)
    local = frozenset(s.name for s in traced.sites if s.name in inside and not s.is_data)
    return Split(chosen, frozenset(shared), frozenset(own), local)


def _found(traced: Traced, option: str) -> frozenset[str]:
    """The plates that observed sites are in, where that says which latents are a part's own.

    :raises ArgumentError: listing the candidates.
    """
    data = [s for s in traced.sites if s.is_data]
    candidates = sorted(_plates_of(data))
    if not candidates:
        names = ", ".join(repr(s.name) for s in data) or "none"
        raise errors.ArgumentError(
            f"data in parts are spread along the plate of the observed sites, and these ({names}) "
            'are in no plate. Mend: with pyro.plate("data", len(y)): pyro.sample("y", ..., obs=y), '
            "and pass the data in the same call."
        )
    latents = [s for s in traced.sites if not s.is_data and s.plates & set(candidates)]
    if len(candidates) > 1 and latents:
        listed = "; ".join(f"latent {s.name!r} in {sorted(s.plates)}" for s in latents)
        raise errors.ArgumentError(
            f"observed sites are in the plates {candidates}, of which some hold latents "
            f"({listed}): which latents all parts share is not known. Mend: name the plate whose "
            f"elements are spread over the parts, {option}={candidates[0]!r}."
        )
    return frozenset(candidates)


def _check_named(traced: Traced, chosen: frozenset[str], option: str) -> None:
    known = _plates_of(traced.sites)
    unknown = sorted(chosen - known)
    if unknown:
        raise errors.ArgumentError(
            f"the model has no plate {unknown[0]!r}; it has {sorted(known)}. Mend: {option}= one "
            "of these."
        )
    if not any(s.is_data and s.plates & chosen for s in traced.sites):
        candidates = sorted(_plates_of(s for s in traced.sites if s.is_data))
        raise errors.ArgumentError(
            f"no observed site is in the plates {sorted(chosen)}; observed sites are in "
            f"{candidates}. Mend: {option}= one of these, and pass the data in the same call."
        )


def _plates_of(sites: Iterable[TracedSite]) -> frozenset[str]:
    return frozenset(p for s in sites for p in s.plates)


def _spanning(latents: tuple[str, ...], plates: list[str]) -> errors.DiscreteLatentError:
    return errors.DiscreteLatentError(
        f"the discrete latents {list(latents)} are summed out together with data of the plates "
        f"{plates}, but not all of them are in these plates: the log of such a sum is no sum over "
        "parts. Mend: one latent for each element (put it into the plate), or all data in one part."
    )
