# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model by its name, ``module:model``."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import errors

EXAMPLE = "python -m pyro_blr explain my_models:regression --data data.npz"


@contextmanager
def working_folder() -> Iterator[None]:
    """Let modules of the working folder be imported, also by each other and while a model runs."""
    folder = str(Path.cwd())
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def model_of(name: str) -> Callable[..., Any]:
    """The model of a name.

    :raises ArgumentError: if there is none.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise errors.ArgumentError(f"a model is named module:model, not {name!r}. Mend: {EXAMPLE}.")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise errors.ArgumentError(
            f"{module_name!r} is a file; a module is named as it is imported. Mend: "
            f"{dotted}:{attribute}, in the folder from which Python imports it."
        )
    if module_name.startswith("."):
        raise errors.ArgumentError(
            f"{module_name!r} is relative, and nothing says to which package. Mend: name it in "
            f"full, my_package{module_name}:{attribute}, from the folder that holds my_package."
        )
    model = _module(module_name)
    for part in attribute.split("."):
        model = _attribute(model, part, name)
    if inspect.isclass(model):
        raise errors.ArgumentError(
            f"{name!r} is a class, not one of its models. Mend: name an instance: write "
            f"model = {model.__name__}(...) in the module, and {module_name}:model here."
        )
    if not callable(model):
        raise errors.ArgumentError(
            f"{name!r} is a {type(model).__name__}, which cannot be called. Mend: name a model."
        )
    return model


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise errors.ArgumentError(
                f"there is no module {name!r} in {Path.cwd()}, nor among what is installed. Mend: "
                "run from the folder that holds it, or set PYTHONPATH."
            ) from error
        raise errors.ArgumentError(
            f"module {name!r} imports {missing!r}, which is not installed. Mend: install it."
        ) from error
    except SystemExit as error:
        raise errors.ArgumentError(
            f"module {name!r} ends the program when it is imported (exit status {error.code}). "
            "Mend: put what a script does under `if __name__ == '__main__':`."
        ) from error
    except Exception as error:
        raise errors.ArgumentError(
            f"module {name!r} cannot be imported: {type(error).__name__}: {error}. Mend: "
            f"python -c 'import {name}' shows where."
        ) from error


def _attribute(owner: Any, part: str, name: str) -> Any:
    try:
        return getattr(owner, part)
    except AttributeError as error:
        own = getattr(owner, "__name__", None)
        there = [
            n
            for n, value in getattr(owner, "__dict__", {}).items()
            if not n.startswith("_")
            and callable(value)
            and getattr(value, "__module__", own) == own
        ]
        listed = f"it has {', '.join(sorted(there))}" if there else "it has no function of its own"
        raise errors.ArgumentError(
            f"{name!r}: there is no {part!r} in {own or type(owner).__name__}; {listed}. Mend: "
            "use one of its names."
        ) from error
