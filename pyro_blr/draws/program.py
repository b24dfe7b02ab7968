# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model or a guide with its arguments, run where some of its sites have given values."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import site_is_subsample
from ..diagnosis import called
from ..energy.enumeration import DEEPEST, check_declared, is_discrete, summed_out
from ..energy.home import run_at_home
from ..energy.trace import missing_site
from .data import Data, KnownData, check_plates
from .entries import Entry, entries_of, is_computed
from .randomness import DirectDirichlets
from .summed import without_choices


@dataclass(frozen=True, eq=False)
class Program:
    """What is run at each draw.

    :param caller: the function that the user called, for errors.
    :param is_free: whether observed sites are drawn as well, which makes predictions.
    :param must_know: whether every latent has a given value, or is discrete and summed out.
    """

    code: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    caller: str
    is_free: bool = False
    must_know: bool = False
    data: KnownData = field(default_factory=KnownData)

    def run(
        self, given: Mapping[str, Tensor], nesting: int = DEEPEST, *, checks: bool = True
    ) -> list[Entry]:
        """The sites of one run.

        :param given: values of sites.
        :param nesting: the dims that batches and plates take.
        :param checks: whether data can be looked at: not under ``vmap``.
        :raises ArgumentError: for a call that the model does not take.
        :raises GuideError: if only one of model and guide has a latent.
        """

        def run(code: Callable[..., Any]) -> list[Entry]:
            return self._run(code, given, nesting, checks)

        return run_at_home(run, self.code, self.args, self.kwargs)

    def _run(
        self, code: Callable[..., Any], given: Mapping[str, Tensor], nesting: int, checks: bool
    ) -> list[Entry]:
        known = _Known(nesting)
        with torch.no_grad(), poutine.block(), ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            # torch's Wishart tests whether its draws are regular and warns if they are.
            warnings.filterwarnings("ignore", "Singular sample detected", UserWarning)
            tracer = stack.enter_context(poutine.trace())
            if self.must_know:
                stack.enter_context(EnumMessenger(first_available_dim=-1 - nesting))
            stack.enter_context(DirectDirichlets())
            stack.enter_context(Data(self.data, checks))
            stack.enter_context(_WholePlates(self.caller))
            if self.must_know:
                stack.enter_context(known)
            if self.is_free:
                stack.enter_context(_Unobserved())
            stack.enter_context(_Given(given))
            with called(self.code, self.args, self.kwargs, self.caller):
                code(*self.args, **self.kwargs)
            if self.must_know:
                self._check_latents(given, known.missing, tracer.trace)
            with pyro.validation_enabled(False):  # data are checked above, and draws below
                tracer.trace.compute_log_prob()
            entries = self.data.observed(entries_of(tracer.trace, given))
            return without_choices(tracer.trace, entries) if self.must_know else entries

    def _check_latents(
        self, given: Mapping[str, Tensor], missing: Sequence[str], trace: Any
    ) -> None:
        unseen = sorted(set(given) - set(trace.nodes))
        if unseen:
            raise errors.GuideError(
                f"the guide holds {unseen} which the model did not sample in this call. Mend: call "
                f"{self.caller} with the arguments that the fit had."
            )
        if missing:
            raise missing_site(missing[0])


class _Given(Messenger):
    """Gives sites the values of a draw."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not site_is_subsample(msg):
            check_plates(msg["name"], msg, self.values[msg["name"]])
            msg["value"], msg["is_observed"] = self.values[msg["name"]], False
            msg["infer"] = {k: v for k, v in msg["infer"].items() if k != "enumerate"}


class _Unobserved(Messenger):
    """Has data drawn, and leaves what is computed."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        is_kept = is_computed(msg) or msg["infer"].get("is_auxiliary") or site_is_subsample(msg)
        if msg["is_observed"] and not is_kept:
            msg["is_observed"], msg["done"], msg["value"] = False, False, None
            msg["infer"] = {**msg["infer"], "was_observed": True}


class _Known(Messenger):
    """Has discrete latents summed out, and notes other latents without a value.

    :param nesting: the dims that are left to plates.
    """

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self.nesting = nesting
        self.missing: list[str] = []

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        if not is_discrete(msg["fn"]):
            self.missing.append(msg["name"])
            return
        msg["infer"] = summed_out(msg["name"], msg["fn"], msg["infer"])
        check_declared(msg, self.nesting)


class _WholePlates(Messenger):
    """Refuses a site in a subsampled plate before its density is asked for."""

    def __init__(self, caller: str) -> None:
        super().__init__()
        self.caller = caller

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        for frame in msg["cond_indep_stack"]:
            full = frame.full_size or frame.size
            if frame.size != full:
                raise errors.PlateSizeError(
                    f"site {msg['name']!r} is in plate {frame.name!r}, which takes {frame.size} of "
                    f"its {full} elements; a log likelihood needs each of them once. Mend: call "
                    f"{self.caller} with all of the data, and let the model's plate take them: "
                    f"pyro.plate({frame.name!r}, {full})."
                )
