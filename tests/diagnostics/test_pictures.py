# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures hold what they are to show, and ask for matplotlib when they are drawn, not before."""

import sys

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from pyro_blr import BLR, errors
from pyro_blr.diagnostics import plot_history, report, sbc
from pyro_blr.guides import AutoNatural
from tests.diagnostics.models import CONJUGATE, fitted, narrow

MODEL, DATA = CONJUGATE["groups"]


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def words(figure):
    found = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    return " ".join([*titles(figure), *found])


@pytest.fixture
def drawn(tmp_path):
    """Draws a figure to a file: what cannot be drawn fails only then."""

    def save(figure):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 5000
        return figure

    yield save
    assert plt.get_fignums() == []  # nothing is left open


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_a_report(drawn, times):
    fit = narrow(fitted(MODEL, *DATA()), times)
    found = report(fit, *DATA(), num_samples=500)
    figure = drawn(found.plot())
    assert found.verdict[:20] in figure.get_suptitle()
    shown = words(figure)
    assert "whole guide" in shown and "effect[0, 0]" in shown and "optimum" in shown


def test_a_report_of_a_fit_without_steps_leaves_them_out(drawn):
    fit = fitted(MODEL, *DATA())
    figure = drawn(report(fit.blr, *DATA(), num_samples=500).plot())
    assert "optimum" not in words(figure)


def test_many_elements_are_the_worst_ones(drawn):
    model, data = CONJUGATE["normal_mean"]
    wide = torch.zeros(10).expand(10)
    assert wide.shape == data()[0].shape
    found = report(narrow(fitted(model, *data()), 3.0), *data(), num_samples=500)
    assert len(drawn(found.plot()).axes) == 4


def test_ranks(drawn):
    figure = drawn(sbc(MODEL, *DATA(), num=20).plot())
    assert any(t.startswith("mean, p = ") for t in titles(figure))
    assert any(t.startswith("effect[") for t in titles(figure))


def test_the_way_to_the_optimum(drawn):
    figure = drawn(plot_history(fitted(MODEL, *DATA())))
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize("given", [None, "blr", "no step"])
def test_no_way_to_the_optimum(given):
    blr = BLR(MODEL, AutoNatural(MODEL))
    given = {"blr": blr, "no step": None}.get(given, given)
    with pytest.raises(errors.ArgumentError, match=r"Mend: plot_history\(blr\.fit"):
        plot_history(given)


def test_matplotlib_is_missing(monkeypatch):
    fit = fitted(MODEL, *DATA())
    found = report(fit, *DATA(), num_samples=500)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    for draw in (found.plot, lambda: plot_history(fit)):
        with pytest.raises(errors.ArgumentError, match="Mend: pip install matplotlib"):
            draw()
