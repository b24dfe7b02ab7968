# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A fit as ArviZ reads it: draws, log likelihoods, data and the weights that tell how good q is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from . import errors
from ._compat import site_is_subsample
from ._version import __version__
from .blr import BLR
from .energy.enumeration import is_discrete
from .energy.latents import block_values
from .energy.trace import missing_site
from .guides.protocol import LatentGuide
from .guides.views import naturals_of, points_of

#: Names that ArviZ gives to the dims of draws.
RESERVED_DIMS = ("chain", "draw", "sample")


def to_arviz(fit: Any, *args: Any, num_samples: int = 1000, **kwargs: Any) -> Any:
    r"""Draws of q with everything that ArviZ asks of them, as an ``xarray.DataTree``.

    The draws are independent, in one chain, so ``r_hat`` is NaN and every effective sample size is
    about ``num_samples``: neither says anything about how close q is to the posterior. That is in
    the weights :math:`\log p(x, z_s) - \log q(z_s)`, whose mean is the ELBO, and in what
    ``arviz_stats.loo_approximate_posterior(tree, log_p, log_q)`` makes of them.

    Groups:

    - ``posterior``: every latent and every ``pyro.deterministic`` site;
    - ``log_likelihood``: of each datum of each observed site, at each draw, by the model itself;
      masked data have 0, and a ``poutine.scale`` is not applied;
    - ``observed_data``;
    - ``sample_stats``: ``log_p``, the log joint, and ``log_q``, of each draw, in nats.

    A plate's name becomes the name of its dim; dims of size 1 outside any plate are dropped.

    Example::

        fit = blr.fit(X, y)
        tree = to_arviz(fit, X, y)
        arviz_stats.summary(tree)

    :param fit: what :meth:`BLR.fit` returned, or a :class:`BLR` that has taken a step.
    :param args: the arguments of the model, with all of the data.
    :param int num_samples: how many draws.
    :raises ArgumentError: if ``fit`` or ``num_samples`` cannot be used, or ArviZ is missing.
    :raises DiscreteLatentError: if the model has a discrete latent, which is summed out.
    :raises GuideError: if the guide and the model do not hold the same latents.
    :raises PlateSizeError: if the model takes a subsample of a plate.
    """
    blr = _engine(fit)
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
        raise errors.ArgumentError(
            f"num_samples must be a positive integer, not {num_samples!r}. Mend: "
            "to_arviz(fit, *args, num_samples=1000)."
        )
    from_dict = _from_dict()
    with torch.no_grad():
        values, log_q = draw(blr.view, num_samples)
        for name, value in points_of(blr.view, args, kwargs).items():
            values[name] = value.expand(num_samples, *value.shape)
        record = _Record(frozenset(values))
        for s in range(num_samples):
            latents = {name: value[s] for name, value in values.items()}
            record.add(_run(blr.model, args, kwargs, latents))
    return _tree(from_dict, record, values, log_q)


def draw(guide: LatentGuide, num_samples: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of every site of a guide, with the log density of q over the sites' values.

    :param num_samples: S
    :return: values  # shape: (S, *site), and log q in nats  # shape: (S,)
    """
    values: dict[str, Tensor] = {}
    log_q = torch.zeros(num_samples, dtype=torch.float64)
    with torch.no_grad():
        for block, held in naturals_of(guide).items():
            natural = tuple(n.detach() for n in held)
            drawn = block.family.sample(natural, (num_samples,))
            log_q = log_q + _summed(block.family.log_prob(natural, drawn))
            for site, variable in block_values(block, guide.latents, drawn).items():
                latent = guide.latents[site.name]
                values[site.name] = latent.value_of(variable)
                if latent.transform is not None:
                    # q(value) dvalue = q(variable) dvariable, in float64 for any dtype.
                    exact = variable.double()
                    value = latent.transform(exact)
                    log_q = log_q - _summed(latent.transform.log_abs_det_jacobian(exact, value))
    return {name: values[name] for name in guide.latents}, log_q


def _summed(log_density: Tensor) -> Tensor:
    """The sum over all dims but the first, on the host. # shape: (S,)"""
    return log_density.double().cpu().reshape(len(log_density), -1).sum(-1)


def _engine(fit: Any) -> BLR:
    blr = getattr(fit, "blr", fit)
    if not isinstance(blr, BLR):
        raise errors.ArgumentError(
            f"to_arviz needs what blr.fit(...) returned, or a BLR, not {type(fit).__name__}. Mend: "
            "to_arviz(blr.fit(*args), *args)."
        )
    if blr.rule is not None:
        raise errors.GuideError(
            "the guide is known by its draws alone, or is a point mass, and has no density of its "
            "own for to_arviz. Mend: draw from it by pyro.infer.Predictive(model, guide=guide), or "
            "use AutoNatural(model)."
        )
    if blr.view is None or not blr.view.is_set_up:
        raise errors.GuideError(
            "the guide has not seen the model yet, so there is nothing to draw. Mend: call "
            "blr.fit(*args) first."
        )
    return blr


def _from_dict() -> Any:
    try:
        from arviz_base import from_dict
    except ModuleNotFoundError as error:
        if error.name != "arviz_base":  # ArviZ is there, but broken: its own error says how
            raise
        raise errors.ArgumentError(
            "to_arviz needs ArviZ, which is not installed. Mend: pip install pyro-blr[arviz]"
        ) from error
    return from_dict


# The model at a draw


class _WholePlates(Messenger):
    """Refuses a site in a subsampled plate before its density is asked for."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        for frame in msg["cond_indep_stack"]:
            full = frame.full_size or frame.size
            if frame.size != full:
                raise errors.PlateSizeError(
                    f"site {msg['name']!r} is in plate {frame.name!r}, which takes {frame.size} of "
                    f"its {full} elements; a log likelihood needs each of them once. Mend: call "
                    "to_arviz with all of the data, and let the model's plate take them: "
                    f"pyro.plate({frame.name!r}, {full})."
                )


def _run(
    model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], latents: dict[str, Tensor]
) -> Any:
    """The trace of the user's model with its latents at a draw."""
    with poutine.trace() as tracer, _WholePlates(), poutine.condition(data=latents):
        model(*args, **kwargs)
    trace = tracer.trace
    unseen = sorted(set(latents) - set(trace.nodes))
    if unseen:
        raise errors.GuideError(
            f"the guide holds {unseen} which the model did not sample in this call. Mend: call "
            "to_arviz with the arguments that the fit had."
        )
    for name in trace.stochastic_nodes:
        if site_is_subsample(trace.nodes[name]):
            continue
        raise _summed_out(name) if is_discrete(trace.nodes[name]["fn"]) else missing_site(name)
    trace.compute_log_prob()
    return trace


def _summed_out(name: str) -> errors.DiscreteLatentError:
    return errors.DiscreteLatentError(
        f"latent {name!r} is discrete and was summed out: the log likelihood of a datum at a draw "
        "is a sum over its values, which to_arviz does not take. Mend: take draws of the other "
        "latents by guide.sample_posterior(num_samples) and the probabilities of its values by "
        "blr.discrete_marginals(...), or write the sum in the model that is exported: "
        "dist.MixtureSameFamily, or dist.DiscreteHMM for a chain."
    )


@dataclass(frozen=True)
class _Dims:
    """How a value lies in ArviZ: the shape without dims of size 1 outside any plate, and the names.

    :param tuple shape: batch dims, then event dims.
    :param int event_dim: how many of them are event dims.
    :param tuple plates: the plate of each batch dim; ``None`` for a dim outside any plate.
    """

    shape: tuple[int, ...]
    event_dim: int
    plates: tuple[str | None, ...]

    @classmethod
    def of(cls, shape: torch.Size, event_dim: int, plates: Mapping[int, str]) -> "_Dims":
        """:param plates: the plate names by batch dim, counted from the right as Pyro does."""
        batch = len(shape) - event_dim
        names = [plates.get(d - batch) for d in range(batch)]
        kept = [d for d in range(batch) if names[d] or shape[d] != 1]
        sizes = (*(shape[d] for d in kept), *shape[batch:])
        return cls(sizes, event_dim, tuple(names[d] for d in kept))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of a log density."""
        return self.shape[: len(self.plates)]

    def names(self, site: str, names_of_plates: Mapping[str, str]) -> list[str]:
        """The name of each dim; outside plates as ArviZ itself counts them."""
        names = [names_of_plates[p] if p else None for p in self.plates]
        names += [None] * self.event_dim
        return [name or f"{site}_dim_{i}" for i, name in enumerate(names)]


class _Record:
    """What the runs of the model gave, site by site.

    :param latents: the names of the sites that hold a draw.
    """

    def __init__(self, latents: frozenset[str]) -> None:
        self.latents = latents
        self.dims: dict[str, _Dims] = {}
        self.plates: dict[str, int] = {}
        self.observed: dict[str, Tensor] = {}
        self.log_likelihood: dict[str, list[Tensor]] = {}
        self.deterministic: dict[str, list[Tensor]] = {}
        self.log_p: list[Tensor] = []

    def add(self, trace: Any) -> None:
        """Take what is needed of a run, so that the trace can go."""
        total = torch.zeros((), dtype=torch.float64)
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site):
                continue
            total = total + site["log_prob"].double().sum().cpu()
            if site["infer"].get("is_auxiliary"):
                continue  # pyro.factor: part of the log joint, but no datum
            if name not in self.dims:
                self._describe(name, site)
            if site["infer"].get("_deterministic"):
                self.deterministic.setdefault(name, []).append(site["value"])
            elif name not in self.latents:
                each = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
                self.log_likelihood.setdefault(name, []).append(each)
        self.log_p.append(total)

    def _describe(self, name: str, site: Any) -> None:
        frames = {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}
        self.plates.update({f.name: int(f.size) for f in frames.values()})
        value, event_dim = site["value"], site["fn"].event_dim
        if site["infer"].get("_deterministic"):
            # By default its fn calls every dim an event dim: plates are then known by their sizes.
            if event_dim == value.dim() and any(_has(value, d, f.size) for d, f in frames.items()):
                event_dim = 0
            frames = {d: f for d, f in frames.items() if _has(value, d - event_dim, f.size)}
        else:
            value = value.expand(torch.broadcast_shapes(value.shape, site["fn"].shape()))
            if name not in self.latents:
                self.observed[name] = value
        self.dims[name] = _Dims.of(value.shape, event_dim, {d: f.name for d, f in frames.items()})


def _has(value: Tensor, dim: int, size: int) -> bool:
    return value.dim() >= -dim and value.shape[dim] == size


# The tree


def _tree(from_dict: Any, record: _Record, values: dict[str, Tensor], log_q: Tensor) -> Any:
    """The groups, as one chain of S draws."""
    posterior = values | {name: torch.stack(v) for name, v in record.deterministic.items()}
    dims = record.dims
    groups: dict[str, dict[str, Any]] = {
        "posterior": {n: _numpy(v, (1, -1, *dims[n].shape)) for n, v in posterior.items()},
        "log_likelihood": {
            n: _numpy(torch.stack(v), (1, -1, *dims[n].batch_shape))
            for n, v in record.log_likelihood.items()
        },
        "observed_data": {n: _numpy(v, dims[n].shape) for n, v in record.observed.items()},
        "sample_stats": {
            "log_p": _numpy(torch.stack(record.log_p), (1, -1)),
            "log_q": _numpy(log_q, (1, -1)),
        },
    }
    names = _plate_names(record)
    return from_dict(
        {name: group for name, group in groups.items() if group},
        dims={name: own.names(name, names) for name, own in dims.items()},
        coords={names[plate]: np.arange(size) for plate, size in record.plates.items()},
        attrs={"/": {"inference_library": "pyro_blr", "inference_library_version": __version__}},
    )


def _plate_names(record: _Record) -> dict[str, str]:
    """The dim of each plate: its name, unless a variable or ArviZ has that name already."""
    taken = {*record.dims, *RESERVED_DIMS}
    return {plate: f"{plate}_dim" if plate in taken else plate for plate in record.plates}


def _numpy(value: Tensor, shape: tuple[int, ...]) -> Any:
    return value.detach().cpu().numpy().reshape(shape)
