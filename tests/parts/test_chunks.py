# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Data that are read part by part give what all rows at once give."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader, TensorDataset

from pyro_blr import BLR, Parts, diagnostics, errors, to_arviz
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
)

from .models import EXAMPLES, D, N, X, Y, logistic, normals, regression
from .scenarios import close, naturals, started

EXACT = [name for name in EXAMPLES if name not in ("logistic", "softmax")]
PARTITIONS = st.lists(st.integers(1, N), min_size=1, max_size=4).map(
    lambda cuts: sorted({0, *(c % N for c in cuts)})
)


def chunks(example, cuts) -> list[tuple[torch.Tensor, ...]]:
    """The rows of an example from each cut to the next."""
    return [example.part(slice(a, b)) for a, b in zip(cuts, [*cuts[1:], N], strict=True)]


@pytest.mark.parametrize("name", EXACT)
@given(cuts=PARTITIONS)
@settings(max_examples=3, deadline=None, derandomize=True)
def test_messages_of_any_parts_are_those_of_all_rows(name, cuts):
    example = EXAMPLES[name]
    pyro.set_rng_seed(0)
    blr = started(example)
    blr.step(*example.rows)
    parts = Parts(chunks(example, cuts))
    assert blr.evaluate_loss(parts) == pytest.approx(blr.evaluate_loss(*example.rows), rel=1e-12)
    close(blr.messages(parts), blr.messages(*example.rows), 1e-12)


@pytest.mark.parametrize("name", ["mixture", "logistic", "maximised"])
def test_a_fit_of_parts_is_that_of_all_rows(name):
    example = EXAMPLES[name]
    fits = []
    for args in (example.rows, (Parts(chunks(example, [0, 9, 16])),)):
        pyro.set_rng_seed(3)
        blr = started(example)
        fits.append((blr.fit(*args, max_steps=30), naturals(blr)))
    (one, expected), (other, found) = fits
    assert one.converged == other.converged
    close(found, expected, 1e-12 if name in EXACT else 1e-7)


def test_a_conjugate_model_takes_one_pass():
    passes = []

    def read():
        passes.append(1)
        yield from zip(X.split(5), Y.split(5), strict=True)

    def known(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)

    blr = BLR(known, AutoNatural(known))
    fit = blr.fit(Parts(read))
    assert fit.converged and fit.steps == 1
    assert fit.gap == 0 and "one pass" in fit.reason
    # The first part is looked at before, for what all parts have in common.
    assert len(passes) == 2
    precision = torch.eye(D) + X.mT @ X / 0.09
    natural = blr.guide.naturals()[blr.guide.blocks[0]]
    torch.testing.assert_close(-2 * natural[1], precision, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(natural[0], X.mT @ Y / 0.09, rtol=1e-12, atol=1e-12)


def test_a_data_loader_keywords_and_other_guides():
    dataset = TensorDataset(X, (Y > 0).double())
    loader = DataLoader(dataset, batch_size=9, shuffle=True)
    parts = Parts(loader, lambda batch: {"x": batch[0], "y": batch[1]})
    for guide in (AutoNaturalMultivariateNormal(logistic), AutoNormal(logistic)):
        blr = BLR(logistic, guide)
        blr.step(parts)
        close(blr.messages(parts), blr.messages(*dataset.tensors), 1e-7)


def test_a_run_over_parts_is_resumed_between_passes():
    example = EXAMPLES["hierarchy"]
    parts = Parts(chunks(example, [0, 9]))
    pyro.set_rng_seed(3)
    whole = started(example)
    for _ in range(4):
        whole.step(parts)
    pyro.set_rng_seed(3)
    first = started(example)
    for _ in range(2):
        first.step(parts)
    state = first.state_dict()
    second = started(example)
    second.load_state_dict(state)
    for _ in range(2):
        second.step(parts)
    close(naturals(second), naturals(whole), 1e-15)


def test_the_progress_bar_counts_parts(capsys):
    blr = BLR(regression, AutoNatural(regression))
    blr.fit(Parts([(X, Y), (X, Y)]), max_steps=2, progress=True)
    assert "parts/s" in capsys.readouterr().err


# What goes wrong


def fitted(batches, model=regression, **options):
    return BLR(model, AutoNatural(model)).fit(Parts(batches, **options))


def test_parts_that_are_read_once_are_refused():
    with pytest.raises(errors.ArgumentError, match=r"read again for each pass.*Mend: Parts\("):
        Parts(iter([(X, Y)]))
    with pytest.raises(errors.ArgumentError, match="read again"):
        Parts(3)


def test_no_parts_and_other_parts_than_before():
    with pytest.raises(errors.ArgumentError, match="has no parts"):
        fitted([])
    more = [(X, Y)]

    def read():
        more.append((X, Y))
        return iter(list(more))

    with pytest.raises(errors.ArgumentError, match=r"had \d parts in the last pass, and now \d"):
        fitted(read)


def test_an_error_names_the_part():
    nan = Y.clone()
    nan[2] = torch.nan
    with pytest.raises(errors.NonFiniteError, match=r"in part 1 of the data.*'y'"):
        fitted([(X, Y), (X, nan)])
    with pytest.raises(errors.SubsampleError, match=r"in part 1 of the data.*no elements"):
        fitted([(X, Y), (X[:0], Y[:0])])


def test_what_to_args_returns_is_checked():
    with pytest.raises(errors.ArgumentError, match="to_args returned int"):
        fitted([(X, Y)], to_args=lambda batch: 3)


def test_a_batch_that_is_not_the_models_arguments_says_so():
    with pytest.raises(errors.ArgumentError, match=r"in part 0.*\(x.*missing.*'y'.*Mend: Parts\("):
        fitted([X])
    with pytest.raises(errors.ArgumentError, match=r"in part 1 of the data.*too many.*Mend"):
        fitted([(X, Y), (X, Y, Y)])


def test_an_error_of_the_model_names_the_part():
    def fails(x, y):
        regression(x, y)
        if len(y) == 3:
            raise KeyError("a mistake")

    with pytest.raises(KeyError) as raised:
        fitted([(X, Y), (X[:3], Y[:3])], fails)
    assert "in part 1 of the data, counted from 0" in raised.value.__notes__


def test_low_rank_guides_are_refused():
    guide = AutoNaturalLowRankMultivariateNormal(regression)
    with pytest.raises(errors.GuideError, match=r"do not add up.*Mend: use AutoNatural"):
        BLR(regression, guide).fit(Parts([(X, Y)]))


def test_parts_stand_alone():
    blr = BLR(regression, AutoNatural(regression))
    with pytest.raises(errors.ArgumentError, match="in the place of all of the model's arguments"):
        blr.fit(Parts([(X, Y)]), Y)


def test_local_latents_and_minibatches_are_refused():
    def local(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def minibatches(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(w, 1.0), obs=y[rows])

    with pytest.raises(errors.GuideError, match=r"\['z'\] are in the plates.*part by part"):
        fitted([Y], local)
    with pytest.raises(errors.SubsampleError, match="in parts already"):
        fitted([Y], minibatches)


def test_a_part_on_another_tier_is_refused():
    blr = BLR(logistic, AutoNatural(logistic), quad_tol=1e-9, on_sampled="ignore")
    y = (Y > 0).double()
    with pytest.raises(errors.SampledFactorError, match=r"in part 1.*'y' is sampled here and quad"):
        blr.fit(Parts([(X, y), (1e8 * normals(4, N, D), y)]))


def test_what_needs_all_data_is_refused():
    blr = BLR(regression, AutoNatural(regression))
    parts = Parts([(X, Y)])
    blr.fit(parts)
    for ask in (blr.influence, blr.trace_report, blr.discrete_marginals, blr.surrogate):
        with pytest.raises(errors.ArgumentError, match="all data in one place"):
            ask(parts)
    asked = (to_arviz, diagnostics.report, diagnostics.site_khat, diagnostics.against_nuts)
    for about in asked:
        for call in ((parts,), (parts, Y)):
            with pytest.raises(
                errors.ArgumentError, match=f"{about.__name__} needs all data in one place.*Mend"
            ):
                about(blr, *call)
    assert "'y'" in repr(blr.explain(parts)) or "y" in repr(blr.explain(parts))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"process_group": "world"}, "process_group must be a group of torch.distributed"),
        ({"sharded": 3}, "sharded must be the name of a plate, or several"),
        ({"sharded": ["data", 3]}, "sharded must be the name of a plate, or several"),
    ],
)
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(errors.ArgumentError, match=f"{words}.*Mend: "):
        BLR(regression, AutoNatural(regression), **options)
