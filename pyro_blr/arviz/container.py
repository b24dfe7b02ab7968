# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What holds the groups: an ``xarray.DataTree``, or the ``InferenceData`` of ArviZ before 1.0.

The groups are plain ``xarray`` data sets, so that one adapter serves every version of ArviZ.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from .. import errors

CONTAINERS = ("auto", "datatree", "inferencedata")

MISSING = "Mend: pip install pyro-blr[arviz]"


def holder(kind: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    """What makes one of groups and attributes.

    :param str kind: ``"datatree"``, ``"inferencedata"``, or ``"auto"``: a tree, unless only an
        ArviZ before 1.0 is installed.
    :raises ArgumentError: if ArviZ is missing, or has no such thing.
    """
    if kind not in CONTAINERS:
        raise errors.ArgumentError(
            f"container must be one of {list(CONTAINERS)}, not {kind!r}. Mend: leave it out."
        )
    if not (_is_here("arviz_base") or is_legacy()):
        raise errors.ArgumentError(f"to_arviz needs ArviZ, which is not installed. {MISSING}")
    if kind == "inferencedata" and not _has_inference_data():
        raise errors.ArgumentError(
            "InferenceData is in ArviZ before 1.0 only, which is not installed. Mend: leave "
            "container= out, or pip install 'arviz<1'."
        )
    return _inference_data if kind == "inferencedata" or (kind == "auto" and is_legacy()) else _tree


def is_legacy() -> bool:
    """Whether the only ArviZ that is installed is one before 1.0."""
    return not _is_here("arviz_base") and _has_inference_data()


def _tree(groups: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
    from xarray import DataTree

    tree = DataTree.from_dict(dict(groups))
    tree.attrs = dict(attrs)
    return tree


def _inference_data(groups: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
    import arviz

    return arviz.InferenceData(**groups, attrs=dict(attrs))


def _has_inference_data() -> bool:
    """Whether ArviZ before 1.0 is installed."""
    try:
        return int(version("arviz").partition(".")[0]) < 1
    except PackageNotFoundError:
        return False


def _is_here(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # an entry of None in sys.modules
        return False
