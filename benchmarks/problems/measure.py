# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Everything that is measured of one problem: each peer in its own process, all by one judge."""

import logging
import math
from typing import Any

import numpy as np
import torch

from .. import machine
from ..peers.environments import interpreter, missing
from ..peers.process import Process
from ..peers.registry import DEFAULT, MEAN_FIELD, PEERS, VMP, Peer
from ..peers.stepping import RATES, SHARES, SURVIVORS
from ..rows import Settings
from ..store import Store
from .judge import Judge, Judged
from .problem import Problem, mean_of

#: A peer that searches may run for so many times BLR's time, or so many seconds if that is more;
#: no longer than it is told, but so many times BLR's time in any case.
TIMES, LEAST, BEYOND = 10.0, 1.0, 1.5
TINY = 0.05
#: Seeds beyond the one of the search; BLR's are cheap.
SEEDS, BLR_SEEDS = (1, 2), (1, 2, 3, 4)
#: A fit that takes longer, in seconds, is not repeated for every seed.
LONG = 5.0
#: Within so many nats of the best of its family a run has arrived, in the choice of its setting.
NEAR = 0.1

log = logging.getLogger(__name__)


class Measuring:
    """One problem, its judge and its store."""

    def __init__(self, problem: Problem, store: Store, settings: Settings) -> None:
        self.problem, self.store, self.settings = problem, store, settings
        self.judge = Judge(problem)

    def everything(self) -> dict[str, dict[str, Any]]:
        """The records of all peers by "peer/family"; those that are kept are not measured anew."""
        self._forget_what_is_stale()
        self.store.once("problem", "described", self._described)
        if self.problem.reference == "nuts" and not self.settings.tiny:
            self.store.once("reference", "nuts", self._reference)
        for name in self.problem.peers:
            self._peer(PEERS[name])
        return self.store.content["records"]

    def _forget_what_is_stale(self) -> None:
        """Records of another model or of other data, and of what failed, are measured anew."""
        content, mark = self.store.content, self._mark()
        described = content.get("problem", {}).get("described", {})
        if not same(described.get("log_joint"), mark):
            for section in ("problem", "records"):
                content.pop(section, None)
            content.get("reference", {}).pop("blr", None)
        reference = content.get("reference", {})
        if not same(reference.get("nuts", {}).get("log_joint"), mark):
            reference.pop("nuts", None)
        kept = content.get("records", {})
        for key in [key for key, record in kept.items() if "error" in record]:
            del kept[key]

    def _mark(self) -> list[float]:
        """The log joint at two fixed points: model and data in short."""
        make = torch.Generator().manual_seed(0)
        u = 0.1 * torch.randn(2, self.judge.joint.dim, generator=make)
        return [float(x) for x in self.judge.joint(u)]

    def _described(self) -> dict[str, Any]:
        sizes = {name: s.stop - s.start for name, s in self.judge.joint.slices.items()}
        return {
            "title": self.problem.title,
            "dim": self.judge.joint.dim,
            "latents": sizes,
            "peers": list(self.problem.peers),
            "log_joint": self._mark(),
            "machine": machine.describe(),
        }

    def _peer(self, peer: Peer) -> None:
        """Every family that the problem asks for, in a process each: its first fit counts."""
        allowed = self.problem.ours if peer.name == "blr" else self.problem.families
        python = interpreter(peer.environment)
        if python is None:
            # Not kept: the environment may be there the next time.
            log.info("%s: %s: %s", self.problem.name, peer.title, missing(peer.environment))
            return
        for family in (f for f in peer.families if f == "" or f in (*allowed, VMP)):
            key = f"{peer.name}/{family}"
            if key in self.store.content.get("records", {}):
                continue
            with Process(python, self.settings.threads) as process:
                record = self._record(process, peer, family)
            self.store.once("records", key, lambda made=record: made)
            log.info("%s: %s: %s", self.problem.name, key, summary(record))

    def _record(self, process: Process, peer: Peer, family: str) -> dict[str, Any]:
        """The search and the seeds of one peer in one family."""
        given = self._given(family)
        found = self._found(process, peer, given)
        if "error" in found:
            return {"error": found["error"], "peer": peer.name, "family": family}
        runs = found["judged"]
        chosen = self._chosen(runs, family)
        record = {
            "peer": peer.name,
            "family": family,
            "compile": found["compile"],
            "memory": found.get("memory"),
            "versions": found["versions"],
            "seconds_allowed": given["seconds"] if peer.searches else None,
            "chosen": chosen,
            "runs": runs,
            **self._moments(found["runs"][chosen]),
        }
        if peer.name == "blr" and family == DEFAULT and self.problem.reference != "nuts":
            self._refer_to(found["runs"][chosen])
        again = self._seeds(process, peer, given, found["runs"][chosen])
        return record | {"again": again} if again else record

    def _found(self, process: Process, peer: Peer, given: dict[str, Any]) -> dict[str, Any]:
        """The answer of a peer, with its runs judged; where it searches, that of both horizons."""

        def call(**more: Any) -> dict[str, Any]:
            found = process.call(peer.name, {**given, **more}, list(peer.packages))
            if "error" not in found:
                found["judged"] = [self._judged(run) for run in found["runs"]]
            return found

        if not peer.searches:
            return call()
        found = call(rates=RATES, share=SHARES[0])
        if "error" in found:
            return found
        last = {run["rate"]: elbo_of(run["looks"][-1]) for run in found["judged"]}
        better = sorted(last, key=last.__getitem__, reverse=True)[:SURVIVORS]
        long = call(rates=better, share=SHARES[1])
        if "error" in long:
            return long
        both = {name: found[name] + long[name] for name in ("runs", "judged")}
        return {**found, **both, "memory": max_known(found.get("memory"), long.get("memory"))}

    def _given(self, family: str, seed: int = 0) -> dict[str, Any]:
        """What a job is told."""
        took = self._taken(family)
        most = max(self.settings.seconds, BEYOND * took)
        longest = TINY if self.settings.tiny else min(most, max(LEAST, TIMES * took))
        start = {name: mean_of(law).numpy() for name, law in self.problem.start.items()}
        return {
            "problem": self.problem.name,
            "args": in_numpy(self.problem.args),
            "start": start or None,
            "sites": [(n, s.stop - s.start) for n, s in self.judge.joint.slices.items()],
            "data": self.settings.data.resolve() if self.settings.data else None,
            "tiny": self.settings.tiny,
            "threads": self.settings.threads,
            "family": family,
            "seed": seed,
            "seconds": longest,
            "chains": self.problem.chains,
            **self.problem.told,
        }

    def _taken(self, family: str) -> float:
        """Seconds of BLR's fit in a family; of mean field, in its default where that is quicker."""
        kept = self.store.content.get("records", {})
        ours = {f: kept.get(f"blr/{f}", {"error": ""}) for f in (family, DEFAULT)}
        taken = {f: r["runs"][0]["looks"][-1][0] for f, r in ours.items() if "error" not in r}
        if family == MEAN_FIELD:
            return min(taken.values(), default=0.0)
        return float(taken.get(family, taken.get(DEFAULT, 0.0)))

    def _judged(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run with its looks as rows: seconds, gradients, ELBO, its error, its own bound."""
        looks = []
        for look in run["looks"]:
            judged = Judged(math.nan)
            if "loc" in look or "log_q" in look:
                judged = self.judge.of(look)
            row = [look["seconds"], look["gradients"], *judged, look.get("own")]
            looks.append([rounded(x) for x in row])
        kept = {k: v for k, v in run.items() if k not in ("looks", "answers")}
        return {**kept, "looks": looks}

    def _chosen(self, runs: list[dict[str, Any]], family: str) -> int:
        """The run that was first within NEAR of the best of all runs of its family so far."""
        records = [
            r for r in self.store.content.get("records", {}).values() if r["family"] == family
        ]
        others = [run for record in records for run in record.get("runs", ())]
        looks = [look for run in [*others, *runs] for look in run["looks"]]
        best = max(map(elbo_of, looks), default=-math.inf)
        if best == -math.inf:
            return len(runs) - 1
        arrivals = [arrival(run, best - NEAR) for run in runs]
        if any(map(math.isfinite, arrivals)):
            return int(np.argmin(arrivals))
        return int(np.argmax([elbo_of(run["looks"][-1]) for run in runs]))

    def _moments(self, run: dict[str, Any]) -> dict[str, Any]:
        """Errors against the reference draws, of a q, of draws, or of answers for some sites."""
        references = self.store.content.get("reference", {})
        reference = references.get("nuts") or references.get("blr")
        last = run["looks"][-1]
        has_moments = "answers" in run or "values" in last or "loc" in last
        if reference is None or "mean" not in reference or not has_moments:
            return {}
        mean, sd = (np.array(reference[k]) for k in ("mean", "sd"))
        if "answers" in run:
            places = [(self.judge.joint.slices[n], *a) for n, a in run["answers"].items()]
            errors = [np.abs(np.ravel(m) - mean[s]) / sd[s] for s, m, _ in places]
            ratios = [np.ravel(d) / sd[s] for s, _, d in places if d is not None]
        else:
            own_mean, own_sd = (t.numpy() for t in self.judge.moments(last))
            errors, ratios = [np.abs(own_mean - mean) / sd], [own_sd / sd]
        told = {"mean_error": rounded(np.concatenate(errors).max())}
        if ratios:
            both = np.concatenate(ratios)
            told |= {"least_sd": rounded(both.min()), "largest_sd": rounded(both.max())}
        return told

    def _refer_to(self, run: dict[str, Any]) -> None:
        """Where there are no reference draws, others are held to BLR's q: a distance, no error."""
        mean, sd = self.judge.moments(run["looks"][-1])
        moments = {k: [rounded(x) for x in v.tolist()] for k, v in (("mean", mean), ("sd", sd))}
        self.store.once("reference", "blr", lambda: moments)

    def _seeds(
        self, process: Process, peer: Peer, given: dict[str, Any], run: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The last look of the chosen setting with other seeds."""
        if self.settings.tiny or not (peer.searches or peer.name == "blr"):
            return []
        told = []
        settings = [(run["rate"], run["horizon"])] if peer.searches else None
        seeds = SEEDS if peer.searches else BLR_SEEDS
        for seed in seeds[:1] if run["looks"][-1]["seconds"] > LONG else seeds:
            again = {**given, "seed": seed, "settings": settings, "once": True}
            found = process.call(peer.name, again, list(peer.packages))
            if "error" in found:
                told.append({"seed": seed, "error": found["error"]})
                continue
            last = self._judged(found["runs"][0])
            told.append({"seed": seed, "look": last["looks"][-1]})
        return told

    def _reference(self) -> dict[str, Any]:
        """Mean and standard deviation of each unconstrained coordinate, of long chains."""
        peer = PEERS["numpyro_nuts"]
        python = interpreter(peer.environment)
        assert python is not None
        with Process(python, self.settings.threads) as process:
            found = process.call(peer.name, {**self._given(""), "long": True}, list(peer.packages))
        if "error" in found:
            return found
        (run,) = found["runs"]
        mean, sd = self.judge.moments(run["looks"][-1])
        return {
            **{k: v for k, v in run.items() if k != "looks"},
            "seconds": rounded(run["looks"][-1]["seconds"]),
            "log_joint": self._mark(),
            "mean": [rounded(x) for x in mean.tolist()],
            "sd": [rounded(x) for x in sd.tolist()],
        }


def in_numpy(args: Any) -> Any:
    """Tensors as NumPy arrays, in whatever tuples and lists they lie."""
    if torch.is_tensor(args):
        return args.numpy()
    if isinstance(args, tuple) and hasattr(args, "_asdict"):
        return tuple(args)
    if isinstance(args, (tuple, list)):
        return type(args)(in_numpy(a) for a in args)
    return args


def same(kept: list[float] | None, now: list[float]) -> bool:
    """Whether two marks are of one model on one set of data."""
    return kept is not None and np.allclose(kept, now, rtol=1e-9, atol=1e-6)


def max_known(*values: float | None) -> float | None:
    """The largest of what is known."""
    return max((value for value in values if value is not None), default=None)


def rounded(x: Any) -> Any:
    """Nine digits of a number; None where there is none, which JSON has no other word for."""
    if x is None or isinstance(x, int):
        return x
    return float(f"{float(x):.9g}") if math.isfinite(x) else None


def elbo_of(look: list[Any]) -> float:
    """The ELBO of a row; minus infinity for what is no number."""
    return -math.inf if look[2] is None else float(look[2])


def arrival(run: dict[str, Any], target: float) -> float:
    """The seconds of the first look whose ELBO is at least the target; infinite if none is."""
    return next((look[0] for look in run["looks"] if elbo_of(look) >= target), math.inf)


def summary(record: dict[str, Any]) -> str:
    """A line for the log."""
    if "error" in record:
        return f"failed: {record['error']}"
    look = record["runs"][record["chosen"]]["looks"][-1]
    return f"{look[0]:.3g} s, ELBO {look[2]}, {record['runs'][record['chosen']]['setting']}"
