# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Without an accelerator: whole steps on fake tensors mix no devices and wait at listed points."""

import ast
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide.initialization import init_to_median, init_to_value
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from pyro_blr import BLR
from pyro_blr.families import Gamma, MultivariateNormal, Normal
from pyro_blr.guides import AutoNatural
from pyro_blr.lifting import host, operations, quadrature
from pyro_blr.lifting.block_moments import moments_of
from pyro_blr.lifting.blocks import Block, Placement
from pyro_blr.lifting.expectation import compile_plan
from pyro_blr.lifting.fused import FusedPlan
from pyro_blr.lifting.laws import joint_plan
from pyro_blr.lifting.tensor import LiftedTensor
from pyro_blr.lifting.terms import LatentSite
from pyro_blr.steps.certificate import Curvature, certify
from pyro_blr.steps.cone import Safety, plain, retract, safe_step, squared_norm
from tests.device_models import cases
from tests.fake_device import WITH_GRADIENTS, WITHOUT_GRADIENTS, fake_device, fakes

CASES = cases()
DEVICE = WITH_GRADIENTS
#: Torch has no fake kernel for draws of a Beta or a Dirichlet.
NO_FAKE_DRAW = ("coin", "die")
assert operations  # importing it enters the torch operations into the table


def engine(name: str, blocks: str) -> tuple[BLR, tuple[Tensor, ...]]:
    """A BLR on a model, and fake data for it."""
    case = CASES[name]
    init = init_to_median
    if name in NO_FAKE_DRAW:
        p = torch.empty((3,) if name == "die" else (), device=DEVICE)
        init = init_to_value(values={"p": p})
    guide = AutoNatural(case.model, init_loc_fn=init)
    return BLR(case.model, guide, blocks=blocks, on_sampled="ignore"), fakes(case.data, DEVICE)


def devices(tensors: Iterator[Tensor] | list[Tensor]) -> set[str]:
    return {t.device.type for t in tensors}


def test_the_fake_device_notices_a_mix_a_read_and_a_copy(monkeypatch):
    with fake_device(monkeypatch) as reads:
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="device"):
            there + torch.ones(3)
        with pytest.raises(DataDependentOutputException):
            bool(there.sum() > 0)
        with pytest.raises(AssertionError, match="copy"):
            there.cpu()
        assert host.number(there.sum()) == 0.0
    assert reads == {"number": 1}


@pytest.mark.parametrize(
    ("name", "blocks"), [(n, "auto") for n in CASES] + [(n, "site") for n in ("groups", "walk")]
)
def test_a_whole_step_stays_on_the_device(name, blocks, monkeypatch):
    with fake_device(monkeypatch):
        blr, data = engine(name, blocks)
        for _ in range(2):
            blr.step(*data)
        blr.evaluate_loss(*data)
        explained = {f.site: f.tier for f in blr.explain(*data).factors}
        assert math.isfinite(blr.info.residual + blr.info.loss_after)
        naturals = [t for n in blr.guide.naturals().values() for t in n]
        messages = [t for m in blr.messages(*data).values() for t in m]
        with pyro.validation_enabled(False):
            means = [blr.guide.marginal(s) for s in blr.guide.latents]
            drawn = list(blr.guide(*data).values()) if name not in NO_FAKE_DRAW else naturals
    assert devices(naturals) == devices(messages) == devices(drawn) == {DEVICE}
    assert devices([m.mean for m in means if "Transformed" not in type(m).__name__]) <= {DEVICE}
    # The path that was walked is the one that the model takes with values.
    assert explained["k" if name == "die" else "y"] == CASES[name].tier


@pytest.mark.parametrize("name", ["normal mean", "gamma noise", "groups", "walk"])
def test_a_conjugate_step_waits_a_fixed_number_of_times(name, monkeypatch):
    """Each block in the cone, all of them when they are written, and the loss."""
    with fake_device(monkeypatch) as reads:
        blr, data = engine(name, "site")
        blr.step(*data)
        counts = []
        for _ in range(3):
            before = Counter(reads)
            blr.step(*data)
            counts.append(reads - before)
        blocks = len(blr.guide.blocks)
    assert counts[0] == counts[1] == counts[2]
    assert counts[0]["truth"] == blocks + 1
    assert counts[0]["number"] == 1


def test_the_list_of_waits_is_complete():
    """Every function of host.py that reads a value is in the list of its docstring."""
    listed = set(re.findall(r":func:`(\w+)`", host.__doc__))
    made = {n for n, v in vars(host).items() if getattr(v, "__module__", "") == host.__name__}
    assert made - {"readable"} == listed


def test_every_draw_by_a_generator_says_where_it_is_made():
    """Torch refuses a generator of the CPU where its default device is another."""
    unsaid = []
    for file in Path(host.__file__).parents[1].rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            named = {k.arg for k in call.keywords}
            function = getattr(call.func, "attr", "")
            if function in ("rand", "randn", "randint", "randperm") and "generator" in named:
                unsaid += [] if "device" in named else [f"{file.name}:{call.lineno}"]
    assert unsaid == []


def test_torchs_default_device_is_followed(monkeypatch):
    """Priors written as plain numbers: tables made on the CPU by name must not come back."""

    def model(X, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        f = X @ torch.cat([w[:3].cumsum(0), w[3:].flip(0)])
        pyro.sample("y", dist.Normal(f, tau**-0.5).to_event(1), obs=y)

    with fake_device(monkeypatch), torch.device(DEVICE):
        blr = BLR(model, AutoNatural(model))
        data = torch.empty(20, 6), torch.empty(20)
        assert devices(list(data)) == {DEVICE}
        blr.step(*data)
        certify(Curvature(blr.info._objective, blr.guide.naturals()), 1e-6)
        assert devices([t for n in blr.guide.naturals().values() for t in n]) == {DEVICE}


@pytest.mark.parametrize("curvature", ["positive", "negative"])
@pytest.mark.parametrize("name", ["gamma noise", "schools", "minibatch"])
def test_the_certificate_stays_on_the_device(name, curvature, monkeypatch):
    # Products that fall fast end the conjugate gradients; a negative one after the residual's size
    # is negative curvature.
    falling = (0.01**k for k in itertools.count())
    signs = itertools.chain([1.0], itertools.repeat(-1.0))
    products = itertools.repeat(1.0)
    with fake_device(monkeypatch):
        blr, data = engine(name, "site")
        blr.step(*data)
        objective, naturals = blr.info._objective, blr.guide.naturals()
    with fake_device(monkeypatch, number=lambda _: next(products)):
        at = Curvature(objective, naturals)
        products = falling if curvature == "positive" else signs
        found = certify(at, 1e-6)
    assert found.saddle == (curvature == "negative")
    assert devices([t for n in found.direction.values() for t in n]) == {DEVICE}


@pytest.mark.parametrize("family", [Normal(), MultivariateNormal(), Gamma()], ids=repr)
def test_every_way_into_the_cone_stays_on_the_device(family, monkeypatch):
    shapes = [(3,) * max(d, 1) for d in family.natural_event_dims]
    answers = itertools.chain([False, False, True], itertools.repeat(True))
    with fake_device(monkeypatch, truth=lambda _: next(answers)) as reads:
        natural, message = ([torch.empty(s, device=DEVICE) for s in shapes] for _ in range(2))
        safety = Safety()
        stepped = safe_step(family, tuple(natural), tuple(message), 0.5, safety)
        norm = squared_norm(family, tuple(natural), tuple(message))
    assert reads == {"truth": 3} and safety.halvings >= 1
    assert devices([*stepped, norm]) == {DEVICE}


@pytest.mark.parametrize("device", WITHOUT_GRADIENTS)
def test_expectations_are_evaluated_where_the_statistics_are(device, monkeypatch):
    w = LatentSite("w", (3,), 1, True)
    b = LatentSite("b", (4,), 0, True)
    tau = LatentSite("tau", (), 0, False)
    layout = {
        "w": Block("w", MultivariateNormal(), (w,), (), 3, {"w": Placement(())}),
        "b": Block("b", Normal(), (b,), (4,), None, {"b": Placement((0,))}),
        "tau": Block("tau", Gamma(), (tau,), (), None, {"tau": Placement(())}),
    }
    shapes = {"w": [(3,), (3, 3)], "b": [(4,), (4,)], "tau": [(), ()]}
    with fake_device(monkeypatch), torch.no_grad():
        where = torch.device(device)
        W, B, T = (LiftedTensor.of_site(s, torch.float64, where) for s in (w, b, tau))
        X, y = torch.empty(20, 3, device=where), torch.empty(20, device=where)
        group = torch.empty(20, dtype=torch.long, device=where)
        moments = {
            block: moments_of(block, tuple(torch.empty(s, device=where) for s in shapes[name]))
            for name, block in layout.items()
        }
        f = X @ W + B[group]
        values = [
            f,
            T * (y - f) ** 2,
            torch.stack([W[0], T * W[1], B[2]]),
            B.cumsum(0),
            B[1:] - B[:-1],
        ]
        plans = [compile_plan(v.poly, layout) for v in values]
        evaluated = [p.evaluate(moments) for p in plans]
        results = [t for value, size in evaluated for t in (value, size())]
        pair = joint_plan((f.poly, (f + B[group]).poly), layout, aligned=True)
        scalars = pair.evaluate(moments, ((), ()))
        integrand = quadrature.Integrand(lambda g, h: torch.nn.functional.logsigmoid(g * h), 20)
        rule = quadrature.calibrate(integrand, scalars).rule
        results += [*scalars.variances, scalars.covariance, integrand.expectation(scalars, rule)]
        natural = moments[layout["w"]].natural
        results += [
            *plain(natural, natural, 0.5),
            *retract(MultivariateNormal(), natural, natural, 0.5),
        ]
        shaped = [tuple(value.shape) for value, _ in evaluated]
    assert devices(results) == {device}
    assert shaped == [tuple(v.shape) for v in values]


def test_the_constants_of_a_product_are_on_one_device(monkeypatch):
    """Fixed positions become tables made from shapes alone, beside constants of the data."""
    site = LatentSite("b", (4,), 0, True)
    block = Block("b", Normal(), (site,), (4,), None, {"b": Placement((0,))})
    with fake_device(monkeypatch), torch.no_grad():
        B = LiftedTensor.of_site(site, torch.float64, torch.device(DEVICE))
        y = torch.empty(20, device=DEVICE)
        plan = compile_plan((y * B[1] + y.square() * B[2]).poly, {"b": block})
        moments = {block: moments_of(block, tuple(torch.empty(2, 4, device=DEVICE)))}
        assert devices([FusedPlan(plan).values(moments, ())]) == {DEVICE}
    met = [devices([t for t, _ in p.constants]) for p in plan.products]
    assert met == [{DEVICE}] * 2 and max(len(p.constants) for p in plan.products) == 2
