# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rows of the table: what was measured of a posterior against what it should be."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from ..rows import Check, Row
from .judge import NEAR, Moments, errors_of

NAME = "posteriordb"
#: Pyro's CPU seconds per CPU second of BLR, and NumPyro's gradients per gradient of BLR.
MEDIAN_FASTER, LEAST_FASTER, FEWER_GRADIENTS = 20.0, 3.0, 20.0
#: In reference sds, and for the ratios of sds.
MEAN_ERROR, SD_ERROR, LARGER_SD_ERROR = 0.1, 0.10, 0.12
#: Posteriors that a Gaussian on the unconstrained space can be this near to. Of the others the
#: error of the best Gaussian is told, which is a limit of the family.
NEARLY_GAUSSIAN = {
    "kidscore_momiq": SD_ERROR,
    "kidscore_interaction": SD_ERROR,
    "logearn_interaction": SD_ERROR,
    "blr": SD_ERROR,
    "nes": SD_ERROR,
    "arK": SD_ERROR,
    "gp_regr": SD_ERROR,
    "low_dim_gauss_mix": SD_ERROR,
    # Forty-six bushes and seven parameters without priors: a Student t, whose sds are wider.
    "logmesquite_logvash": LARGER_SD_ERROR,
}
#: What is known of a hard case.
HARD = {"rats_model": "a poor region, 18.6 nats lower, holds whoever enters it"}


@dataclass(frozen=True)
class Measured:
    """The records of one posterior; a side that did not run has none.

    :param str referred: whose draws the reference is of, with R-hat and effective size of NUTS.
    """

    name: str
    best: dict[str, Any]
    blr: dict[str, Any]
    pyro: dict[str, Any] | None
    numpyro: dict[str, Any] | None
    reference: Moments
    referred: str

    @property
    def faster(self) -> float:
        """Pyro's CPU seconds over BLR's; a lower bound where Pyro's are censored."""
        return math.nan if self.pyro is None else self.pyro["seconds"]["all"] / self.blr["seconds"]

    @property
    def fewer(self) -> float:
        """NumPyro's gradients over BLR's; infinite for BLR without draws, NaN if not counted."""
        ours = self.blr["gradients"]
        if self.numpyro is None or ours is None:
            return math.nan
        return self.numpyro["gradients"] / ours if ours else math.inf


def row(measured: Measured) -> Row:
    """One posterior."""
    blr = measured.blr
    gap = math.inf if blr["gap"] is None else blr["gap"]
    bound = " at least" if measured.pyro and measured.pyro["censored"] else ""
    checks = [
        Check("gap", gap, NEAR),
        Check("failures", len(blr["failures"]), 0),
        Check("the best's error", measured.best["error"]),
    ]
    if measured.numpyro and blr["gradients"] is not None:
        checks.append(
            Check("x fewer gradients than NumPyro", measured.fewer, FEWER_GRADIENTS, "at least")
        )
    return Row(
        NAME,
        measured.name,
        Check(f"x less CPU than Pyro's SVI{bound}", measured.faster, LEAST_FASTER, "at least"),
        [*checks, *moments_checks(measured)],
        _seconds(measured),
        "; ".join(_notes(measured)),
    )


def moments_checks(measured: Measured) -> list[Check]:
    """Of BLR's answers against the reference, with limits where a Gaussian can keep them."""
    blr = measured.blr
    if "moments" not in blr:
        return []
    checks = [Check("k-hat", blr["khat"]), Check("weights' efficiency", blr["efficiency"])]
    if not measured.reference:
        return checks
    errors = errors_of(blr["moments"], measured.reference)
    allowed = NEARLY_GAUSSIAN.get(measured.name)
    bounds = (None, None, None) if allowed is None else (MEAN_ERROR, 1 - allowed, 1 + allowed)
    return [
        *checks,
        Check("error of a mean in sd", errors["mean"], bounds[0]),
        Check("least ratio of sds", errors["least sd"], bounds[1], "at least"),
        Check("largest", errors["largest sd"], bounds[2]),
    ]


def totals(all_measured: list[Measured]) -> list[Row]:
    """Over all posteriors."""
    ratios = [m.faster for m in all_measured]
    median = statistics.median(ratios)
    arrived = sum((m.blr["gap"] or math.inf) <= NEAR for m in all_measured)
    failures = sum(len(m.blr["failures"]) for m in all_measured)
    censored = [m.name for m in all_measured if m.pyro and m.pyro["censored"]]
    count = len(all_measured)
    note = f"lower bounds for {len(censored)}: {', '.join(censored)}" if censored else ""
    return [
        Row(
            NAME,
            "median",
            Check("x less CPU than Pyro's SVI", median, MEDIAN_FASTER, "at least"),
            [Check("least", min(ratios), LEAST_FASTER, "at least")],
            note=note,
        ),
        Row(
            NAME,
            "total",
            Check(f"of {count} within {NEAR:g} nats", arrived, count, "at least"),
            [Check("failures over all seeds", failures, 0)],
        ),
    ]


def _seconds(measured: Measured) -> dict[str, list[float]]:
    seconds = {"BLR": [measured.blr["seconds"]], "BLR wall": [measured.blr["wall_seconds"]]}
    if measured.pyro:
        seconds["Pyro SVI"] = [measured.pyro["seconds"]["all"]]
    if measured.numpyro:
        seconds["NumPyro SVI"] = [measured.numpyro["seconds"]["all"]]
        seconds["NumPyro SVI, compiling"] = [measured.numpyro["seconds"]["compile"]]
    return seconds


def _notes(measured: Measured) -> list[str]:
    blr = measured.blr
    notes = [
        f"BLR {blr['seconds']:.3g} s, {_count(blr['steps'])} steps, "
        f"{_count(blr['gradients'])} gradients, "
        f"{blr['arrived']} of {len(blr['gaps'])} seeds within {NEAR:g}"
    ]
    notes += [f"{name} {_side(side, measured.reference)}" for name, side in _sides(measured)]
    notes.append(measured.referred)
    if measured.name in HARD:
        notes.append(HARD[measured.name])
    notes += sorted(set(blr["failures"]))
    return notes


def _count(value: float | None) -> str:
    return "no count of" if value is None else f"{value:g}"


def _sides(measured: Measured) -> list[tuple[str, dict[str, Any]]]:
    sides = {"Pyro SVI": measured.pyro, "NumPyro SVI": measured.numpyro}
    return [(name, side) for name, side in sides.items() if side]


def _side(side: dict[str, Any], reference: Moments) -> str:
    gap = "no gap" if side["gap"] is None else f"{side['gap']:.3g} nats"
    compiling = side["seconds"].get("compile")
    text = f"{side['seconds']['all']:.3g} s"
    text += f" and {compiling:.3g} s of compiling" if compiling else ""
    text += f" at {side['setting']} from {side['start']}: {gap}"
    if side["censored"]:
        text += ", NOT arrived"
        beyond = side["beyond_the_cap"]
        text += f" ({beyond[0]} would, by its tuning)" if beyond else " (nor by tuning any longer)"
    if "moments" in side and reference:
        errors = errors_of(side["moments"], reference)
        text += (
            f", error of a mean {errors['mean']:.2g} sd, sds {errors['least sd']:.2g} to "
            f"{errors['largest sd']:.2g}, k-hat {side['khat']:.2g}"
        )
    return text
