# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The plates that a run puts a site under: do they fit what is stored, and the log density?"""

from collections.abc import Mapping
from typing import Any

from .. import errors
from .latents import Latent
from .subsamples import Subsample


def chosen_rows(
    latent: Latent, msg: Mapping[str, Any], plates: Mapping[str, Subsample]
) -> dict[int, Subsample]:
    """The rows of a stored latent that its site takes, by dim; whole dims are left out.

    :param plates: the rows that each plate of the run holds.
    :raises PlateSizeError: for other plates than it is stored under, or of other sizes.
    :raises SubsampleError: for rows that are not known.
    """
    frames = {f.name: f for f in msg["cond_indep_stack"] if f.vectorized}
    chosen = {}
    for dim, (name, full) in latent.plates.items():
        frame, rows = frames.get(name), plates.get(name)
        if frame is None:
            continue
        if rows is None:
            check_seen(frame, latent.name, full)
            continue
        if rows.size != full:
            raise changed_size(name, latent.name, rows.size, full)
        if not rows.is_whole:
            chosen[dim] = rows
    _check_names(latent, set(frames))
    return chosen


def _check_names(latent: Latent, given: set[str]) -> None:
    stored = {name for name, _ in latent.plates.values()}
    if given != stored:
        raise errors.PlateSizeError(
            f"latent {latent.name!r} was stored under the plates {sorted(stored)}, but the model "
            f"now puts it under {sorted(given)}. Mend: make a new guide for the changed model."
        )


def check_seen(frame: Any, latent: str, full: int) -> None:
    """Refuse a subsampled plate whose own site is hidden, so that its rows are not known.

    :param frame: the plate as a latent's site has it.
    :raises PlateSizeError: for a plate of another size than the latent.
    :raises SubsampleError: naming the plate.
    """
    if frame.full_size not in (None, full):
        raise changed_size(frame.name, latent, frame.full_size, full)
    if frame.size != full:
        raise errors.SubsampleError(
            f"plate {frame.name!r} of latent {latent!r} holds {frame.size} of {full} rows, but "
            "which ones is hidden by poutine.block. Mend: expose the plate with its latents, "
            f"poutine.block(model, expose=[{latent!r}, {frame.name!r}])."
        )


def changed_size(plate: str, latent: str, size: int, full: int) -> errors.PlateSizeError:
    """The error for a plate of another size than the latent that is stored for it."""
    return errors.PlateSizeError(
        f"plate {plate!r} of latent {latent!r} has size {size}, but the guide holds {full} "
        "elements of it. Mend: make a new guide for data of another size, or give the plate its "
        f"full size and a subsample: pyro.plate({plate!r}, {full}, subsample=index)."
    )


def check_dims(msg: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Refuse a site in plates whose log density has other dims: a (N, 1) mean of (N,) data.

    :param shape: the log density's, without the dims of discrete latents.
    :raises ShapeError: naming the site.
    """
    frames = {f.dim: f for f in msg["cond_indep_stack"] if f.vectorized}
    if not frames or not shape:
        return
    for dim in range(-len(shape), 0):
        size = frames[dim].size if dim in frames else 1
        between = dim not in frames and dim > min(frames)
        if shape[dim] not in (1, size) and not between:
            plates = ", ".join(f"{f.name!r} (dim {d}, size {f.size})" for d, f in frames.items())
            raise errors.ShapeError(
                f"the log density of site {msg['name']!r} has the shape {shape}, but its plates "
                f"are {plates}. Mend: drop the dim that broadcasts (a mean of shape (N, 1) beside "
                "data of shape (N,): .squeeze(-1)), or declare dims that belong together by "
                ".to_event(1)."
            )
