# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Of which models and guides there can be a stream."""

from collections.abc import Mapping
from typing import Any

from .. import errors
from ..energy.energy import Energy
from ..energy.parts import Split, split
from ..energy.traced import Traced
from ..refusals import check_adds_up

Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def split_of(traced: Traced, plate: str | None) -> Split:
    """Which factors are those of a batch: the ones under the plates of its data.

    Where no observed site is in a plate, all of them are data.

    :param plate: the plate along which data arrive; if None, those of the observed sites.
    :raises ArgumentError: if it is not known which plates are meant, or there are no data.
    """
    data = [s for s in traced.sites if s.is_data]
    if not data:
        raise errors.ArgumentError(
            "the model has no observed site, so there are no data to add or to take away. Mend: "
            "pass the data, obs=..., in the same call."
        )
    if plate is None and not any(s.plates for s in data):
        return _without_plates(traced)
    found = split(traced, () if plate is None else (plate,), "plate")
    outside = sorted(s.name for s in data if not s.plates & found.plates)
    if outside and plate is None:
        names = sorted(found.plates)
        raise errors.ArgumentError(
            f"observed sites {outside} are in no plate, and others in {names}: whether each batch "
            f"has them anew is not known. Mend: plate={names[0]!r} has them belong to the prior, "
            'counted once; with pyro.plate("one", 1) around them they are data of each batch.'
        )
    return found


def _without_plates(traced: Traced) -> Split:
    """All observed sites of a model that declares no plates of them."""
    data = frozenset(s.name for s in traced.sites if s.is_data)
    joined = sorted(s.name for s in traced.sites if s.choice is not None)
    if joined:
        raise errors.DiscreteLatentError(
            f"the discrete latents {joined} are in no plate, so that it is not known whether each "
            "batch has them anew. Mend: put them and the data of each into a plate, or the guide "
            'holds them: discrete="factorised".'
        )
    shared = frozenset(s.name for s in traced.sites) - data
    return Split(frozenset(), shared, data, frozenset())


def check_guide(blr: Any, call: Call, method: str) -> None:
    """Refuse a guide without natural parameters, or of which it is not known whether it has data.

    :raises ArgumentError: for data in parts, on several processes or read one after the other; for
        a posterior at another temperature, as it was loaded.
    :raises GuideError: naming the guide.
    """
    blr._in_one_place(method, *call)
    name = getattr(blr.guide, "__name__", type(blr.guide).__name__)
    blr._check_lifted(*call, f"nothing that {method} could sum")
    steps, temperature = blr._loaded or (blr.num_steps, blr.temperature)
    if steps == blr.num_steps and temperature != blr.temperature:
        raise errors.ArgumentError(
            f"the posterior that was loaded is at temperature {temperature:g}, and this engine at "
            f"{blr.temperature:g}, so that {method} would divide log densities of other data by "
            f"another number. Mend: BLR(..., temperature={temperature:g})."
        )
    if not (blr._is_new_guide or blr.num_steps):
        raise errors.GuideError(
            f"whether {name} is the posterior of earlier data, or stands where it starts, is not "
            "known: it was made before this engine, which has taken no step yet. Mend: "
            "blr.fit(*args) with the data so far, and blr.update(*args) from then on; or use "
            "AutoNatural(model), which knows."
        )


def check_streamed(blr: Any, energy: Energy, method: str) -> None:
    """Refuse what has no stream.

    :raises GuideError: for coordinates that are not natural ones.
    :raises ParameterError: for parameters that may move.
    :raises SubsampleError: for a minibatch.
    """
    rows = (
        f"{method} counts each row once. Mend: pass the rows of the batch alone, in a plate of "
        "their number."
    )
    check_adds_up(blr.view, energy, rows, f"there is no {method}")
    free = sorted(n for n, p in energy.traced.parameters.items() if p.is_free)
    if free:
        raise errors.ParameterError(
            f"the model has the parameters {free}, which may move: what earlier data said of them "
            f"is in no posterior, and {method} would have it of the last batch alone. Mend: give "
            "them priors by pyro.sample; or hold them once they are known, pyro.poutine.substitute("
            f"model, data={{{free[0]!r}: value}})."
        )


def holds_posterior(blr: Any) -> bool:
    """Whether q is the posterior of some data, and not where steps start."""
    return bool(blr.num_steps or getattr(blr.view, "holds_posterior", False))


def no_posterior(method: str) -> errors.GuideError:
    """The error for a guide that has seen no data."""
    return errors.GuideError(
        f"the guide holds no posterior: no step has moved it, so there is nothing to {method}. "
        "Mend: blr.fit(*args) or blr.update(*args) first."
    )
