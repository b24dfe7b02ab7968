# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The command line: versions, devices and a self-test; a model explained from a file of data."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch

import pyro_blr
from pyro_blr import BLR
from pyro_blr.command_line import known_answers, main, versions
from pyro_blr.command_line.data_files import read_data
from pyro_blr.errors import ArgumentError
from pyro_blr.guides import AutoNatural
from tests.drawn_models import regression

MODULE = """
import pyro
import pyro.distributions as dist
import torch
from helper_of_models import SCALE


def regression(X, y, *, scale=SCALE):
    w = pyro.sample("w", dist.Normal(torch.zeros(X.shape[-1]), 10.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, scale), obs=y)


def groups(g, y, K, /):
    with pyro.plate("groups", K):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[g], 1.0), obs=y)


def anything(**data):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    for name, value in data.items():
        pyro.sample(name, dist.Normal(m, 1.0).expand(value.shape).to_event(1), obs=value)


def alone():
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Bernoulli(logits=m), obs=torch.tensor(1.0))


def broken(y):
    raise RuntimeError("the model's own")


def without_latents(y):
    pyro.sample("y", dist.Normal(0.0, 1.0).expand(y.shape).to_event(1), obs=y)


class Model(pyro.nn.PyroModule):
    def forward(self, y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def other(self):
        alone()


instance = Model()
number = 3
"""

X = np.arange(6.0).reshape(3, 2)
Y = np.array([0.5, -1.0, 2.5])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with models, which no other test sees."""
    before = set(sys.modules)
    (tmp_path / "cl_models.py").write_text(MODULE)
    (tmp_path / "helper_of_models.py").write_text("SCALE = 1.0\n")
    (tmp_path / "cl_wrong.py").write_text("import no_such_package\n")
    (tmp_path / "cl_syntax.py").write_text("def (:\n")
    (tmp_path / "cl_exit.py").write_text("import sys\nsys.exit(2)\n")
    np.savez(tmp_path / "data.npz", X=X, y=Y, id=np.arange(3))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("cl_", "helper_of")):
            del sys.modules[name]


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = str(Path(pyro_blr.__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-W", "error::UserWarning", "-m", "pyro_blr", *arguments]
    return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True)


# ------------------------------------------------------------------------- versions and self-test


def test_without_a_command_versions_devices_and_ok() -> None:
    result = command()
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    named = dict(line.split(None, 1) for line in lines[:-1] if not line.startswith("self-test"))
    assert named["pyro_blr"] == pyro_blr.__version__
    assert named["torch"] == torch.__version__
    assert named["pyro-ppl"] == pyro.__version__
    assert {"python", "numpy", "CPU", "CUDA"} <= set(named)
    assert sum("ok, error" in line for line in lines) >= 2
    assert lines[-1] == "ok"


def test_packages_that_are_not_there_are_left_out_or_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.setattr(versions, "EXTRAS", ("no-such-extra",))
    text = versions.about()
    assert "no-such-package  not found" in text
    assert "no-such-extra" not in text


@pytest.mark.parametrize("name", ["conjugate", "quadrature"])
def test_a_self_test_that_is_off_fails(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = BLR.evaluate_loss
    monkeypatch.setattr(BLR, "evaluate_loss", lambda *given: real(*given) + 1e-3)
    with pytest.raises(ArithmeticError, match="off by"):
        getattr(known_answers, name)("cpu")
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "failed"


def test_a_check_that_breaks_is_a_failure_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(device: str) -> float:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(known_answers, "conjugate", broken)
    assert known_answers.self_test() == 1
    text = capsys.readouterr().out
    assert "failed, RuntimeError: no such thing" in text
    assert "quadrature against a fine grid: ok" in text


def test_the_self_test_leaves_the_process_as_it_was() -> None:
    pyro.param("kept", torch.tensor(1.0))
    random = torch.get_rng_state()
    assert main([]) == 0
    assert list(pyro.get_param_store()) == ["kept"]
    assert torch.equal(torch.get_rng_state(), random)


# ------------------------------------------------------------------------------------------ explain


def test_explain_from_the_shell(folder: Path) -> None:
    result = command("explain", "cl_models:regression", "--data", "data.npz", cwd=folder)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "X: float32 of shape (3, 2)",
        "y: float32 of shape (3,)",
        "left out, as no arguments of the model: id",
    ]
    assert lines[3].split() == ["site", "tier", "conjugate", "latents", "error", "reason"]
    assert lines[-1] == "blocks of q: {w}"


def test_the_table_is_that_of_explain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "cl_models:regression", "--data", "data.npz"]) == 0
    (folder / "cl_regression.py").write_text("from tests.drawn_models import regression\n")
    np.savez(folder / "two.npz", x=X, y=Y)
    capsys.readouterr()
    assert main(["explain", "cl_regression:regression", "--data", "two.npz"]) == 0
    shown = capsys.readouterr().out
    pyro.clear_param_store()
    data = torch.from_numpy(X), torch.from_numpy(Y)
    assert str(BLR(regression, AutoNatural(regression)).explain(*data)) in shown


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_numbers_have_the_dtype_that_is_asked_for(
    dtype: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_default_dtype()
    call = ["explain", "cl_models:regression", "--data", "data.npz", "--dtype", dtype]
    assert main([*call, "--device", "cpu"]) == 0
    assert f"X: {dtype} of shape (3, 2)" in capsys.readouterr().out
    assert torch.get_default_dtype() == before


def write(folder: Path, kind: str, values: dict[str, Any]) -> str:
    """A file of some kind with the same values."""
    path = folder / f"values{kind}"
    if kind == ".npz":
        np.savez(path, **{n: np.asarray(v) for n, v in values.items()})
    elif kind == ".pt":
        torch.save({n: torch.as_tensor(v) for n, v in values.items()}, path)
    elif kind == ".json":
        path.write_text(json.dumps({n: np.asarray(v).tolist() for n, v in values.items()}))
    else:
        columns: dict[str, Any] = {}
        for name, value in values.items():
            if np.ndim(value) == 2:
                columns |= {f"{name}.{i + 1}": c for i, c in enumerate(np.transpose(value))}
            elif np.ndim(value) == 1:
                columns[name] = value
        lines = [
            ",".join(columns),
            *(",".join(map(str, r)) for r in zip(*columns.values(), strict=True)),
        ]
        path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("kind", [".npz", ".pt", ".json", ".csv"])
def test_a_file_of_each_kind_has_the_same_values(kind: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"X": X, "y": Y, "g": np.array([0, 1, 1]), "K": 2, "s": 0.5}
    read = read_data(Path(write(tmp_path, kind, values)), ["X", "y", "g", "K", "s"]).values
    for name in ("X", "y"):
        assert read[name].dtype == torch.get_default_dtype()
        np.testing.assert_array_equal(read[name].numpy(), values[name])
    assert read["g"].dtype == torch.int64
    assert read["g"].tolist() == [0, 1, 1]
    if kind != ".csv":  # whose columns all have a number for each row
        assert (read["K"], read["s"]) == (2, 0.5)
        assert type(read["K"]) is int


@pytest.mark.parametrize("kind", [".npz", ".pt", ".json", ".csv"])
def test_only_what_is_wanted_is_read(kind: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path, kind, {"X": X, "y": Y, "g": np.array([0, 1, 1])}))
    read = read_data(path, ["y"])
    assert list(read.values) == ["y"]
    assert "g" in read.others
    assert {"X", "y", "g"} <= set(read_data(path, None).values)


def test_whole_numbers_and_indices(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(folder, ".json", {"g": [0, 1, 1], "y": [0.5, 1.0, 2.0], "K": 2})
    assert main(["explain", "cl_models:groups", "--data", data]) == 0  # positional-only arguments
    shown = capsys.readouterr().out
    assert "g: int64 of shape (3,)" in shown
    assert "K: 2" in shown


@pytest.mark.parametrize(
    ("model", "latent"), [("instance", "m"), ("instance.other", "m"), ("anything", "m")]
)
def test_other_callables_are_models_too(
    model: str, latent: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(folder, ".npz", {"y": Y})
    assert main(["explain", f"cl_models:{model}", "--data", data]) == 0
    assert f"blocks of q: {{{latent}}}" in capsys.readouterr().out


def test_a_model_without_arguments_needs_no_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "cl_models:alone"]) == 0
    assert "quadrature" in capsys.readouterr().out


def test_the_path_of_python_is_left_as_it_was(folder: Path) -> None:
    before = list(sys.path)
    assert main(["explain", "cl_models:alone"]) == 0
    assert sys.path == before


# --------------------------------------------------------------------------------------- bad input

BAD_NAMES = {
    "cl_models": r"module:model.*Mend: python -m pyro_blr explain",
    ":regression": r"module:model",
    "cl_models:": r"module:model",
    "cl_models.py:regression": r"file.*Mend: cl_models:regression",
    "./cl_models.py:regression": r"Mend: cl_models:regression",
    "no_module:regression": r"no module 'no_module'.*Mend: run from the folder",
    "cl_models.sub:regression": r"no module 'cl_models.sub'|cannot be imported",
    "cl_wrong:model": r"imports 'no_such_package', which is not installed",
    "cl_syntax:model": r"cannot be imported: SyntaxError.*Mend",
    "cl_models:regresion": r"no 'regresion' in cl_models; it has .*regression.*Mend",
    "cl_models:instance.nothing": r"no 'nothing' in Model",
    "cl_models:number": r"an? int, which cannot be called.*Mend",
    ".cl_models:regression": r"is relative.*Mend: .*full, my_package\.cl_models:regression",
    "cl_exit:model": r"ends the program.*exit status 2.*Mend: .*__main__",
    "cl_models:Model": r"class.*Mend: name an instance",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_model_that_is_not_there_is_said_to_be_so(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", name, "--data", "data.npz"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert re.search(BAD_NAMES[name], shown.err), shown.err


def refused(folder: Path, file: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(ArgumentError, match=match):
        read_data(Path(file), None)


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("none.npz", None, r"not there\. Mend"),
        (".", None, "of no kind"),
        ("data.xlsx", b"", r"of no kind.*Mend: one of \.npz, \.pt, \.json, \.csv"),
        ("data", b"", "of no kind"),
        ("bad.npz", b"nothing", r"no archive of arrays.*Mend: save arrays"),
        ("semicolons.csv", b"a;b\n1;2\n", r"told apart by ';'.*Mend: by commas"),
        ("tabs.csv", b"a\tb\n1\t2\n", r"told apart by '\\t'"),
        ("bad.pt", b"nothing", r"cannot be read as \.pt.*Mend: save tensors"),
        ("bad.json", b"{", r"cannot be read as \.json.*Mend: write numbers"),
        ("list.json", b"[1, 2]", r"holds a list, and no values by name"),
        ("ragged.json", b'{"y": [[1, 2], [3]]}', r"'y'.*rows have different lengths.*Mend"),
        ("null.json", b'{"y": [1, null]}', r"'y'.*Mend.*NaN"),
        ("empty.csv", b"", "no rows of data"),
        ("head.csv", b"a,b\n", "no rows of data"),
        ("short.csv", b"a,b\n1,2\n3\n", r"row 3 .* has 1 cells, and the first one 2"),
        ("text.csv", b"a,b\n1,2\nx,3\n", r"row 3 of the column 'a' is 'x'.*Mend"),
        ("hole.csv", b"a,b\n1,2\n,3\n", r"row 3 of the column 'a' is ''.*nan"),
        ("twice.csv", b"a,a\n1,2\n", r"two columns of one name"),
        ("gap.csv", b"X.1,X.3\n1,2\n", r"'X' .*X\.2 is missing.*Mend"),
        ("late.csv", b"X.2,X.3\n1,2\n", r"'X' .*X\.1 is missing.*Mend"),
        ("utf.csv", b"\xff\xfe\x00", r"cannot be read as \.csv.*no text in UTF-8\. Mend"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    file: str, content: bytes | None, match: str, folder: Path
) -> None:
    refused(folder, file, content, match)


def test_pickled_objects_are_not_run(folder: Path) -> None:
    np.savez(folder / "objects.npz", y=np.array([{"a": 1}], dtype=object))
    refused(folder, "objects.npz", None, r"cannot be read.*Mend: save arrays of numbers")
    torch.save({"y": regression}, folder / "function.pt")
    refused(folder, "function.pt", None, r"cannot be read.*Mend: save tensors")
    torch.save(torch.ones(2), folder / "one.pt")
    refused(folder, "one.pt", None, r"holds a Tensor, and no values by name")


def test_a_size_that_a_table_cannot_hold_and_a_column_without_a_name_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "table.csv").write_text(",y\n0,1.0\n1,2.0\n")
    assert main(["explain", "cl_models:regression", "--data", "table.csv"]) == 1
    assert "Mend: " in (shown := capsys.readouterr().err) and "needs .json or .npz" in shown
    (folder / "table.csv").write_text(",y,X.1,X.2\n0,1.0,1.0,2.0\n1,2.0,3.0,1.0\n")
    assert main(["explain", "cl_models:regression", "--data", "table.csv"]) == 0
    assert "model: a column without a name\n" in capsys.readouterr().out


def test_a_missing_argument_is_named_with_what_the_file_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(folder, ".npz", {"x": X, "y": Y})
    assert main(["explain", "cl_models:regression", "--data", data]) == 1
    shown = capsys.readouterr().err
    assert "needs 'X'" in shown
    assert "'x'" in shown
    assert main(["explain", "cl_models:regression"]) == 1
    assert "needs 'X', 'y', and no file was given. Mend: add --data" in capsys.readouterr().err


def test_an_error_of_the_package_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "cl_models:without_latents", "--data", "data.npz"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: the model has no latent variable")
    assert shown.count("\n") == 1


def test_an_error_of_the_model_has_its_trace_and_a_hint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "cl_models:broken", "--data", "data.npz"]) == 1
    shown = capsys.readouterr().err
    assert "the model's own" in shown
    assert "cl_models.py" in shown
    assert "error: the model raised RuntimeError. Mend" in shown
    assert "1.0" not in shown


def test_whole_numbers_in_the_place_of_real_ones_get_a_hint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(folder, ".json", {"X": [[1, 2], [3, 4]], "y": [1.0, 2.0]})
    assert main(["explain", "cl_models:regression", "--data", data]) == 1
    assert "write 1.0 where a real number is meant" in capsys.readouterr().err


def test_data_that_are_nan_are_counted_by_argument(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(folder, ".npz", {"X": X, "y": np.where(np.arange(len(Y)) < 2, np.nan, Y)})
    main(["explain", "cl_models:regression", "--data", data])
    x, y = capsys.readouterr().out.splitlines()[:2]
    assert "NaN" not in x
    assert "NaN or infinite in 2 places" in y


def test_text_is_no_data(folder: Path) -> None:
    np.savez(folder / "text.npz", y=np.array(["a", "b"]))
    refused(folder, "text.npz", None, r"'y' holds text.*Mend: save labels as whole numbers")


@pytest.mark.parametrize("device", ["nothing", "cuda:99"])
def test_a_device_that_is_not_there(
    device: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["explain", "cl_models:alone", "--device", device]
    assert main(call) == 1
    assert f"no device {device!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["explain"], ["explain", "a:b", "--dtype", "x"]]
)
def test_what_is_no_command_gets_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: python -m pyro_blr" in capsys.readouterr().err
