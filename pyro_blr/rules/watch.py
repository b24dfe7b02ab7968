# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is seen while Pyro evaluates its own loss: which rows, and which site is NaN."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.distribution import COERCIONS
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import site_is_subsample
from ..energy.subsamples import Subsamples


class Watch(Messenger):
    """Records the sites of a run of guide and model, from outside of all other handlers.

    A NaN argument makes torch refuse a distribution before its site has a name. Such a distribution
    is let through to its site, and refused there. What is compiled runs once, while it is traced;
    later calls see no sites, and keep what the first one saw.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}
        self.is_subsampled = False
        self._plates = Subsamples()
        self._has_nan = False

    def __enter__(self) -> Any:
        COERCIONS.append(self._made)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        if self._made in COERCIONS:
            COERCIONS.remove(self._made)
        return super().__exit__(*exc)

    def _made(self, kind: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The distribution, without torch's look at its arguments where one of them is NaN."""
        try:
            return type.__call__(kind, *args, **kwargs)
        except (ValueError, RuntimeError):
            if not any(_is_nan(value) for value in (*args, *kwargs.values())):
                raise
        self._has_nan = True
        try:
            return type.__call__(kind, *args, **{**kwargs, "validate_args": False})
        except (ValueError, RuntimeError, TypeError) as error:
            raise errors.NonFiniteError(
                f"an argument of {kind.__name__} holds a NaN. Mend: look for the place where it is "
                "computed."
            ) from error

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            if torch._C._get_tracing_state() is None:
                self._plates.before(msg)
        elif self._has_nan and _holds_nan(msg["fn"]):
            raise _not_finite(msg["name"], "an argument of its distribution is NaN")

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            if torch._C._get_tracing_state() is None:
                self._plates.after(msg)
            return
        self.sites[msg["name"]] = {k: msg[k] for k in ("fn", "value", "mask")}
        for frame in msg["cond_indep_stack"]:
            rows = self._plates.by_plate.get(frame.name)
            if rows is None:  # hidden, or compiled
                size = int(frame.size)
                self.is_subsampled |= size != int(frame.full_size or size)
            else:
                self.is_subsampled |= rows.is_a_part

    def error(self, loss: float) -> errors.NonFiniteError:
        """The error for a loss that is NaN or infinite: it names the site that is."""
        with torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
            for name, site in self.sites.items():
                if not _is_finite(site):
                    return _not_finite(name, "its log density is NaN or infinite")
        return errors.NonFiniteError(
            f"-ELBO is {loss} at the guide's draws; nothing was moved. Mend: look for NaN or "
            "infinity in the data and in the arguments of the distributions, for a guide whose "
            "support is not the model's, and start from a narrower guide or a smaller lr."
        )


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Evaluate a loss under a watch.

    :raises NonFiniteError: naming the site, where Pyro's own checks refuse a NaN.
    """
    with watch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|inf)")  # said by the error
        try:
            yield
        except errors.BLRError:
            raise
        except ValueError as error:
            for name, site in watch.sites.items():
                if _is_nan(site["value"]):
                    raise _not_finite(name, "its value holds a NaN") from error
            raise


def _not_finite(site: str, why: str) -> errors.NonFiniteError:
    return errors.NonFiniteError(
        f"site {site!r}: {why}; nothing was moved. Mend: look for NaN or infinity in its data and "
        "in what its arguments are computed from, mask such rows (poutine.mask), check that the "
        "guide's support is the model's, or start elsewhere (init_loc_fn) or with a smaller lr."
    )


def _is_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(torch.isnan(value.detach()).any())
    return isinstance(value, float) and math.isnan(value)


def _holds_nan(fn: Any) -> bool:
    """Whether an argument of a distribution, or of one that it is made of, is NaN."""
    held = getattr(fn, "__dict__", {}).values()
    return any(
        _holds_nan(v) if isinstance(v, torch.distributions.Distribution) else _is_nan(v)
        for v in held
    )


def _is_finite(site: Mapping[str, Any]) -> bool:
    try:
        log_prob = site["fn"].log_prob(site["value"])
    except (NotImplementedError, ValueError):
        return True
    finite = torch.isfinite(torch.as_tensor(log_prob))
    mask = site["mask"]
    if mask is not None:
        finite = finite | ~torch.as_tensor(mask, device=finite.device)
    return bool(finite.all())
