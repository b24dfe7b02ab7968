# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One script with SVI and BLR swapped ends at the same optimum."""

import math
import statistics

import pytest
from pyro.infer import SVI, Trace_ELBO

from pyro_blr import BLR
from pyro_blr.errors import SampledFactorWarning
from pyro_blr.guides.views import View
from pyro_blr.rules.drawn import DrawnRule
from pyro_blr.rules.point_mass import PointMassRule
from tests.guides.scripts import SCRIPTS, run

RULES = {"lifted": View, "drawn": DrawnRule, "point": PointMassRule}

#: Draws of an ELBO that has no closed form.
DRAWS = 200


def loss_of(model, guide, data):
    """-ELBO and its standard error: exact where the guide is lifted and no factor is sampled."""
    blr = BLR(model, guide, on_sampled="ignore")
    loss = blr.evaluate_loss(*data)
    if blr.rule is None and blr._objective(data, {}).energy.is_deterministic:
        return loss, 0.0
    if isinstance(blr.rule, PointMassRule):
        return loss, 0.0
    losses = [Trace_ELBO().loss(model, guide, *data) for _ in range(DRAWS)]
    return statistics.fmean(losses), statistics.stdev(losses) / math.sqrt(DRAWS)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
def test_the_swapped_script_has_the_same_optimum(name):
    script = SCRIPTS[name]
    svi = loss_of(*run(SVI, script, script.svi_steps)[1:], script.data())
    inference, model, guide = run(BLR, script, script.steps)
    blr = loss_of(model, guide, script.data())
    slack = 4 * math.hypot(svi[1], blr[1])
    # A guide that only its draws tell of is moved by the same optimiser, as far as SVI gets.
    exact = 1e-6 if script.rule != "drawn" and not blr[1] else script.tol
    assert blr[0] <= svi[0] + slack + exact
    assert svi[0] <= blr[0] + slack + script.tol
    used = inference.rule if inference.rule is not None else inference.view
    assert isinstance(used, RULES[script.rule])


def test_a_guide_known_by_its_draws_says_so():
    script = SCRIPTS["structured"]
    model, guide = script.make()
    with pytest.warns(SampledFactorWarning, match="every factor is sampled from the guide"):
        BLR(model, guide).step(*script.data())
