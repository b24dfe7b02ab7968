# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A call on parts that was interrupted within a pass goes on with the part at which it was."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_blr import BLR, Parts, errors, kept_sums
from pyro_blr.guides import AutoNatural

from .models import EXAMPLES, D, X, Y, regression
from .scenarios import naturals, started

SIZE = 4
COUNT = -(-len(X) // SIZE)  # six


class Killed(BaseException):
    """Ends a process."""


class Reader:
    """Parts that are read one after the other; the process ends after so many.

    :param left: parts until then.
    """

    def __init__(self, rows: tuple[Tensor, ...], left: float = float("inf")) -> None:
        self.rows, self.left, self.read = rows, left, 0

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, len(self.rows[0]), SIZE):
            if self.left <= 0:
                raise Killed
            self.left -= 1
            self.read += 1
            yield tuple(r[start : start + SIZE] for r in self.rows)


class Indexed(Reader):
    """Parts that are found by their number."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        self.read += 1
        return tuple(r[SIZE * number : SIZE * (number + 1)] for r in self.rows)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are written after every part."""
    monkeypatch.setattr(kept_sums, "EVERY", 0.0)


def engine(name: str) -> BLR:
    """One that starts elsewhere each time, where the model leaves that to it."""
    return started(EXAMPLES[name])


def fit(name: str, reader: Reader, folder: Path | None) -> tuple[Any, Any]:
    blr = engine(name)
    found = blr.fit(Parts(reader, checkpoint=folder), max_steps=5)
    return found, naturals(blr)


def known(x: Tensor, y: Tensor) -> None:
    """Of which one pass is the posterior."""
    w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def check_known(blr: BLR) -> None:
    """The posterior of all rows, by normal equations."""
    precision = torch.eye(D, dtype=X.dtype) + X.mT @ X / 0.09
    (natural,) = blr.guide.naturals().values()
    torch.testing.assert_close(-2 * natural[1].detach(), precision, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(natural[0].detach(), X.mT @ Y / 0.09, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Reader, Indexed])
def test_a_pass_goes_on_with_the_part_at_which_it_was_killed(
    kind: type[Reader], tmp_path: Path
) -> None:
    folder = tmp_path / "sums"
    with pytest.raises(Killed):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, Y), 4), checkpoint=folder))
    reader = kind((X, Y))
    blr = BLR(known, AutoNatural(known))
    fit = blr.fit(Parts(reader, checkpoint=folder))
    assert fit.converged and fit.steps == 1
    assert not any(folder.iterdir())
    check_known(blr)
    # The first part is read for what all share; of the three that were known the last one.
    assert reader.read == (5 if kind is Indexed else 7)


@pytest.mark.parametrize("name", ["logistic", "softmax", "maximised"])
def test_a_run_that_is_killed_again_and_again_is_the_one_that_is_not(
    name: str, tmp_path: Path
) -> None:
    """Bit for bit: steps and draws included, though no seed is set again."""
    rows = EXAMPLES[name].rows
    pyro.set_rng_seed(5)
    expected, theirs = fit(name, Reader(rows), None)
    pyro.set_rng_seed(5)
    for left in (1, 4, 9, 30):
        with pytest.raises(Killed):
            fit(name, Reader(rows, left), tmp_path / "sums")
        pyro.set_rng_seed(left)
    found, ours = fit(name, Reader(rows), tmp_path / "sums")
    assert found.losses == expected.losses
    assert found.gap == expected.gap
    for block, tensors in theirs.items():
        assert all(map(torch.equal, ours[block], tensors))


def test_a_process_that_has_ended_leaves_the_folder_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment of theirs: between making the folder of all and that of their own too."""
    first, second = (kept_sums.KeptSums(tmp_path / "sums" / f"process-{r}-of-2") for r in range(2))
    first.begin({"step": 0})
    make = os.mkdir

    def ending(path: Any, *args: Any) -> None:
        if Path(path).name == "process-1-of-2":
            first.end()
        make(path, *args)

    monkeypatch.setattr(os, "mkdir", ending)
    second.begin({"step": 0})
    assert second.sum_of("loss").total is None
    second.end()
    assert not any((tmp_path / "sums").iterdir())


def test_an_error_keeps_what_was_added(tmp_path: Path) -> None:
    bad = Y.clone()
    bad[10] = torch.nan
    with pytest.raises(errors.NonFiniteError, match="in part 2 of the data"):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, bad)), checkpoint=tmp_path / "sums"))
    blr = BLR(known, AutoNatural(known))
    blr.fit(Parts(Reader((X, Y)), checkpoint=tmp_path / "sums"))
    check_known(blr)


def test_every_method_keeps_its_sums_until_it_has_returned(tmp_path: Path) -> None:
    def killed(call: Callable[[Parts], Any]) -> None:
        with pytest.raises(Killed):
            call(Parts(Reader((X, Y), 3), checkpoint=tmp_path / "sums"))
        assert any((tmp_path / "sums").iterdir())

    pyro.set_rng_seed(0)
    blr = BLR(regression, AutoNatural(regression))
    expected = [m(X, Y) for m in (blr.evaluate_loss, blr.step, blr.evaluate_loss)]
    pyro.set_rng_seed(0)
    blr = BLR(regression, AutoNatural(regression))
    blr.evaluate_loss(X, Y)
    found = []
    for method in (blr.evaluate_loss, blr.step, blr.evaluate_loss):
        killed(method)
        found.append(method(Parts(Reader((X, Y)), checkpoint=tmp_path / "sums")))
        assert not any((tmp_path / "sums").iterdir())
    assert found == pytest.approx(expected, rel=1e-12)
    killed(blr.messages)
    with pytest.raises(errors.CheckpointError, match=r"another method.*Mend: .*delete the folder"):
        blr.evaluate_loss(Parts(Reader((X, Y)), checkpoint=tmp_path / "sums"))


def shuffled() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(X, Y), batch_size=SIZE, shuffle=True)


class Stopped:
    """The arguments of some batches; then the process ends."""

    def __init__(self) -> None:
        self.left = 4

    def __call__(self, batch: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return tuple(batch)


def test_shuffled_parts_come_in_the_order_of_the_interrupted_pass(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        BLR(known, AutoNatural(known)).fit(Parts(shuffled(), Stopped(), checkpoint=tmp_path))
    pyro.set_rng_seed(1)
    blr = BLR(known, AutoNatural(known))
    blr.fit(Parts(shuffled(), checkpoint=tmp_path))
    check_known(blr)


def test_other_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, Y), 4), checkpoint=tmp_path))
    blr = BLR(known, AutoNatural(known))
    with pytest.raises(errors.CheckpointError, match=r"part 0 of the data.*Mend: the same parts"):
        blr.fit(Parts(Reader((X.flip(0), Y.flip(0))), checkpoint=tmp_path))


@pytest.mark.parametrize("kind", [Reader, list])
def test_fewer_parts_than_were_added_are_refused(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, Y), 5), checkpoint=tmp_path))
    fewer = kind(Reader((X[: 2 * SIZE], Y[: 2 * SIZE]))) if kind is list else Reader((X[:8], Y[:8]))
    blr = BLR(known, AutoNatural(known))
    with pytest.raises(errors.CheckpointError, match=r"4 parts .*now there are fewer. Mend"):
        blr.fit(Parts(fewer, checkpoint=tmp_path))


def test_parts_that_came_between_two_passes_are_refused(tmp_path: Path) -> None:
    rows = EXAMPLES["logistic"].rows
    pyro.set_rng_seed(5)
    with pytest.raises(Killed):
        fit("logistic", Reader(tuple(r[: 4 * SIZE] for r in rows), 11), tmp_path)
    with pytest.raises(errors.CheckpointError, match=r"passes over.*other parts: 4 of them.* 6"):
        fit("logistic", Reader(rows), tmp_path)


def test_rows_of_few_values_may_be_shuffled_in_each_pass(tmp_path: Path) -> None:
    """Some parts of a pass then come again in the next one by chance."""
    y = torch.tensor([0.0, 1.0]).repeat(4)
    own = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(y), batch_size=2, shuffle=True, generator=own)

    def model(y: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(y.new_tensor(0.5), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=level), obs=y)

    fit = BLR(model, AutoNatural(model)).fit(Parts(loader, checkpoint=tmp_path))
    assert fit.converged and not any(tmp_path.iterdir())


@pytest.mark.parametrize(("scale", "noise"), [(1.0, 0.5), (0.1, 0.3)])
def test_another_model_of_the_same_latents_is_refused(
    scale: float, noise: float, tmp_path: Path
) -> None:
    def other(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), scale).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ w, noise), obs=y)

    with pytest.raises(Killed):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, Y), 4), checkpoint=tmp_path))
    blr = BLR(other, AutoNatural(other))
    with pytest.raises(errors.CheckpointError, match=r"the model changed.*Mend: the model as it"):
        blr.fit(Parts(Reader((X, Y)), checkpoint=tmp_path))


def test_files_that_are_no_sums(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("notes")
    with pytest.raises(errors.ArgumentError, match=r"checkpoint = .* is a file. Mend: a folder"):
        Parts(Reader((X, Y)), checkpoint=file)
    with pytest.raises(Killed):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, Y), 4), checkpoint=tmp_path / "sums"))
    for path in tmp_path.glob("sums/*/*.pt"):
        path.write_bytes(b"none")
    with pytest.raises(errors.CheckpointError, match=r"holds no sum.*Mend: delete the folder"):
        BLR(known, AutoNatural(known)).fit(Parts(Reader((X, Y)), checkpoint=tmp_path / "sums"))


def test_passes_leave_random_numbers_alone() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=SIZE, shuffle=True)
    blr = engine("regression")
    blr.step(X, Y)
    before = torch.get_rng_state()
    blr.evaluate_loss(Parts(loader))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", ["bfloat16", "coo", "csr"])
def test_parts_of_any_kind_are_known_again(kind: str, tmp_path: Path) -> None:
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "bfloat16": Tensor.bfloat16, "coo": Tensor.to_sparse_coo, "csr": Tensor.to_sparse_csr,
    }  # fmt: skip

    def model(x: Tensor, y: Tensor) -> None:
        known(x.double() if kind == "bfloat16" else x, y)

    def fitted(reader: Reader, made: Callable[[Tensor], Tensor]) -> BLR:
        blr, to_args = BLR(model, AutoNatural(model)), lambda rows: (made(rows[0]), rows[1])
        blr.fit(Parts(reader, to_args, checkpoint=tmp_path / "sums"))
        return blr

    with pytest.raises(Killed):
        fitted(Reader((X, Y), 4), made[kind])
    with pytest.raises(errors.CheckpointError, match=r"part \d of the data"):
        fitted(Reader((X + 1, Y)), made[kind])
    found = naturals(fitted(Reader((X, Y)), made[kind]))
    rounded = X.bfloat16().double() if kind == "bfloat16" else X
    expected = naturals(fitted(Reader((rounded, Y)), lambda rows: rows))
    for block, natural in expected.items():
        for a, b in zip(natural, found[block], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
