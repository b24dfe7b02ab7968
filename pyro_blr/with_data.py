# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is done with data once there is a posterior: asked of each, taken out, added, merged."""

from typing import Any

from .arguments import (
    check_limits,
    check_stream,
    fitted_call,
    plain_number,
    reject_reserved,
    reject_unknown,
)
from .influence import Influence, Reweighted
from .model_call import call_of_model
from .streaming import Streamed
from .streaming.forgetting import forget
from .streaming.merging import merge
from .streaming.updating import update
from .with_rule import WithRule


class WithData(WithRule):
    """The methods of :class:`~pyro_blr.BLR` that come after a fit."""

    #: The arguments of the last fit, or of the last data that were added.
    _fit_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @call_of_model
    def influence(
        self, *args: Any, site: str | None = None, plate: str | None = None, **kwargs: Any
    ) -> Influence:
        """What each datum did: its message, predictions without it, the posterior without it.

        After a fit, with the same arguments and all of the data.

        :param site: the observed site; all of the same plates if None.
        :param plate: the plate whose elements are the data; all plates of the site if None.
        :raises ArgumentError: for a guide not at the optimum of these data; if no observed site is
            in a plate, or several are in different ones and none was named.
        :raises GuideError: for a guide that is known by its draws, a point mass, or a mixture.
        :raises NonFiniteError: for NaN or infinite data.
        :raises SampledFactorError: for a model with factors at draws of q.
        :raises SubsampleError: for a minibatch.
        """
        self._in_one_place("influence", args, kwargs)
        reject_reserved(self.model, "influence")
        reject_unknown(self.model, "influence", kwargs)
        self._check_lifted(args, kwargs, "no messages that data could be taken out of")
        return Influence(self, self._objective(args, kwargs), site, plate)

    def without(
        self,
        index: Any,
        *args: Any,
        site: str | None = None,
        plate: str | None = None,
        **kwargs: Any,
    ) -> Reweighted:
        """The posterior without some data, exact where no message depends on q, else stepped from
        first order: :meth:`~pyro_blr.influence.Influence.without`.

        :param index: positions, a list of them, a slice or a mask.
        :param args: the model's arguments; those of the last :meth:`fit` if left out.
        """
        args, kwargs = fitted_call(self._fit_call, args, kwargs)
        return self.influence(*args, site=site, plate=plate, **kwargs).without(index)

    def weighted(
        self,
        weights: Any,
        *args: Any,
        site: str | None = None,
        plate: str | None = None,
        **kwargs: Any,
    ) -> Reweighted:
        """The posterior with the log density of each datum times its weight.

        :param weights: not negative. # shape: that of the data's plates
        :param args: the model's arguments; those of the last :meth:`fit` if left out.
        """
        args, kwargs = fitted_call(self._fit_call, args, kwargs)
        return self.influence(*args, site=site, plate=plate, **kwargs).weighted(weights)

    @call_of_model
    def update(
        self,
        *args: Any,
        plate: str | None = None,
        max_steps: int = 1000,
        tol: float | None = None,
        **kwargs: Any,
    ) -> Streamed:
        """Add new data: the posterior becomes their prior.

        Where no message of the data's factors depends on q they are added to its natural
        parameters, once and exactly. Elsewhere steps are taken as in :meth:`fit`, to the optimum of
        ``E_q[log p(data | z)] - KL(q, q before)``; ``max_steps=1`` takes a single natural step. The
        first data have the model's prior, so that the first call, of a guide that no step has
        moved, does what a fit does. :meth:`fit`, :meth:`step` and :meth:`evaluate_loss` always have
        the model's own prior: they know nothing of data in earlier calls.

        Data are what is under the plates of observed sites, latents of their own among them; all
        else is counted once, and is part of the prior from then on.

        :param args: the model's arguments, with the new data.
        :param plate: the plate along which data arrive, if observed sites are in several.
        :param int max_steps: the most steps to take, where there are any.
        :param float tol: the gap in nats at which steps end, as in :meth:`fit`.
        :raises ArgumentError: if it is not known which plate is meant.
        :raises GuideError: for a guide without natural parameters.
        :raises ImproperPosteriorError: for messages that lead out of the domain.
        :raises NonFiniteError: for NaN or infinite data. The guide is as before after any error.
        :raises ParameterError: for a model with parameters that may move.
        :raises SubsampleError: for a minibatch of a larger plate.
        """
        check_stream(self.model, "update", kwargs, plate)
        max_steps, tol = plain_number(max_steps), plain_number(tol)
        check_limits(max_steps, tol)
        limits: dict[str, Any] = {"max_steps": max_steps, "tol": tol, "progress": False}
        done = update(self, (args, kwargs), plate, limits)
        self._fit_call = args, kwargs
        return done

    @call_of_model
    def forget(self, *args: Any, plate: str | None = None, **kwargs: Any) -> Streamed:
        """Take data out of the posterior again: what they added is subtracted.

        Given the data, their messages are; that is exact, and only for messages that do not depend
        on q. Given what :meth:`update` (or ``merge``, or ``forget``) returned, that is undone,
        without the data. It is as exact as it was itself: where messages depend on q it takes out
        what the data added when they came, in whose light later data were read.

        :param args: the model's arguments, with the data to forget; or what :meth:`update`
            returned for them, followed by arguments with any data where the engine has taken up a
            saved state and has not been called since.
        :param plate: the plate along which data arrive, if observed sites are in several.
        :raises GuideError: for a guide that holds no posterior, or has no natural parameters.
        :raises ImproperPosteriorError: if no distribution is left: data that were never added. The
            guide is as before after any error.
        :raises NonFiniteError: for NaN or infinite data.
        :raises NotConjugatedError: for data whose messages depend on q.
        """
        check_stream(self.model, "forget", kwargs, plate)
        return forget(self, (args, kwargs), plate)

    @call_of_model
    def merge(self, others: Any, *args: Any, plate: str | None = None, **kwargs: Any) -> Streamed:
        """Put fits of disjoint data together: ``sum natural - (K - 1) natural of the prior``.

        Exact where messages do not depend on q; elsewhere the product of what each fit takes its
        data to say. An engine that has seen no data takes the others' posterior.

        :param others: a BLR, a guide, or what ``BLR.state_dict()`` returned; or several of them.
            They are left as they are.
        :param args: the model's arguments, with any data, to know its prior; those of the last
            :meth:`fit` or :meth:`update` if left out.
        :param plate: the plate along which data arrive, if observed sites are in several.
        :raises ArgumentError: for the same fit twice, or one with another prior or temperature; if
            the prior is not known to this engine.
        :raises GuideError: for guides of other sites, families or shapes, or without a posterior;
            for a prior whose messages depend on q.
        :raises ImproperPosteriorError: if the sum is no distribution. The guide is as before after
            any error.
        """
        check_stream(self.model, "merge", kwargs, plate)
        return merge(self, others, (args, kwargs), plate)
