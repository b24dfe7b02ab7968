# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rows of each plate in a call of the model, so that a guide samples the same ones.

Pyro's tools run the guide first and replay the model against it. The rows that a plate of the guide
draws then silently take the place of those that the model names by ``subsample=index`` (issue 3468
of Pyro), so that latents of some rows meet data of others. So a guide asks the model before.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import site_is_subsample
from ..energy.latents import Latent, Latents
from ..energy.plates import changed_size, check_seen
from ..energy.subsamples import Subsample, Subsamples
from ..energy.trace import without_validation
from ..lifting import host
from .posterior import takes

Rows = Mapping[str, Subsample]


class PlateReader(Messenger):
    """Records the rows of every plate, and refuses minibatches that do not fit theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.plates = Subsamples()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.plates.before(msg)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.plates.after(msg)


class _Reader(PlateReader):
    """Gives each latent its draw, too."""

    def __init__(self, latents: Latents, variables: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.latents = latents
        self.variables = variables

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        super()._pyro_sample(msg)
        latent = self.latents.get(msg["name"])
        if latent is not None and not msg["is_observed"] and not msg["done"]:
            fulls = dict(latent.plates.values())
            for frame in msg["cond_indep_stack"]:
                if frame.name in fulls and frame.name not in self.plates.by_plate:
                    check_seen(frame, latent.name, fulls[frame.name])
            variable = self.variables[latent.name].detach()
            msg["value"] = latent.value_of(chosen(variable, latent, self.plates.by_plate))
            msg["done"] = True


def rows_of(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    latents: Latents,
    variables: Mapping[str, Tensor],
) -> Rows:
    """Run the model, unseen by other handlers, for the rows of its plates.

    :param variables: a draw of the variable of each latent, in full size.
    """
    reader = _Reader(latents, variables)
    with torch.no_grad(), poutine.block(), without_validation(), reader:
        model(*args, **kwargs)
    return reader.plates.by_plate


def chosen(variable: Tensor, latent: Latent, rows: Rows) -> Tensor:
    """The rows of a latent's variable that its plates hold.

    :raises PlateSizeError: if a plate has another size than the latent.
    """
    for dim, (plate, full) in latent.plates.items():
        own = rows.get(plate)
        if own is None:
            continue
        if own.size != full:
            raise changed_size(plate, latent.name, own.size, full)
        if not own.is_whole:
            # Counted from behind: draws may have dims of samples in front.
            behind = dim - len(latent.site.shape)
            variable = variable.index_select(behind, own.index.to(variable.device))
    return variable


def under_plates(variable: Tensor, lead: torch.Size, latent: Latent) -> Tensor:
    """A draw inside further plates (of samples, of particles), to be used inside the latent's own.

    The draw of a block has no plates of its own, so that each leaves a dim of size 1 in it, right
    of those further plates; there the latent's dims belong.

    :param lead: the dims in front of the latent's own.
    """
    event = latent.site.event_dim or latent.value_event_dim
    own = len(latent.site.shape) - event
    outer = len(lead) - own
    if not own or any(size != 1 for size in lead[max(outer, 0) :]):
        return variable
    return variable.reshape(*lead[: max(outer, 0)], *latent.site.shape)


def plates_for(rows: Rows, frames: Mapping[str, Any]) -> dict[str, Any]:
    """The plates of a guide, with the model's rows.

    :param frames: the plates of the prototype.
    """
    plates = {}
    for name, frame in sorted(frames.items()):
        own = rows.get(name)
        if own is None:
            plates[name] = pyro.plate(name, frame.full_size or frame.size, dim=frame.dim)
        else:
            index = None if own.is_whole else own.index
            plates[name] = pyro.plate(name, own.size, subsample=index, dim=frame.dim)
    return plates


def check_plates(plates: Mapping[str, Any], rows: Rows) -> None:
    """Refuse plates that the user made for the guide where they hold other rows than the model's.

    :raises SubsampleError: naming the plate.
    """
    for name, own in rows.items():
        plate = plates.get(name)
        if plate is None:
            continue
        index = plate._indices
        same = plate.size == own.size and len(index) == len(own.index)
        if same and own.is_given:
            same = host.truth((index.to(own.index.device) == own.index).all())
        if not same:
            raise errors.SubsampleError(
                f"the plate {name!r} of the guide holds {len(index)} of {plate.size} rows, which "
                f"are not the {len(own.index)} of {own.size} that the model names. Mend: leave out "
                "create_plates, so that the guide takes the model's rows; or make it return "
                f"pyro.plate({name!r}, {own.size}, subsample=index) with the model's own index (an "
                "AutoGuideList needs it)."
            )


def plates_of(
    guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], variables: Mapping[str, Tensor]
) -> tuple[Mapping[str, Any], Rows]:
    """The plates of a guide in a call, and their rows: those of the model, which is run to see.

    :raises SubsampleError: where the user's own plates hold other rows.
    :raises GuideError: for a guide that has lost its model and needs it.
    """
    own = guide.master is None and guide.create_plates is None
    frames = guide._prototype_frames
    rows: Rows = {}
    if frames and guide.model is not None and takes(guide.model, args, kwargs):
        rows = rows_of(guide.model, args, kwargs, guide.latents, variables)
    if own and rows:
        guide.plates = plates_for(rows, frames)
        return guide.plates, rows
    is_a_part = any(f.full_size not in (None, f.size) for f in frames.values())
    if own and guide.model is None and is_a_part:
        raise without_model("see which rows of a subsampled plate to sample")
    plates = guide._create_plates(*args, **kwargs)
    check_plates(plates, rows)
    return plates, {n: Subsample(p._indices, p.size, True) for n, p in plates.items()}


def without_model(what: str) -> errors.GuideError:
    """The error for a guide that came from a pickle without its model."""
    return errors.GuideError(
        f"the guide came from a pickle without its model, so it cannot {what}. Mend: "
        "BLR(model, guide) gives it the model, and so does a pickle of the BLR; a model that is a "
        "function of a module stays with the guide."
    )
