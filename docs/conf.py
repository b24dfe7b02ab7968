# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The documentation: sphinx with MyST pages, tutorials by myst-nb, the API from docstrings."""

import inspect
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the two modules beside this file

from inventories import write_inventories  # noqa: E402

import pyro_blr  # noqa: E402

project = "pyro_blr"
author = "Contributors to the pyro_blr project"
copyright = "Contributors to the pyro_blr project"  # sphinx reads this name
release = version = installed_version("pyro-blr")

extensions = [
    *("myst_nb", "mathml", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx.ext.viewcode"),
]
html_math_renderer = "mathml"
intersphinx_mapping = write_inventories(HERE / "_build" / "inventories")
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"pyro_blr {release}"
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Tutorials are shown as they are stored: no kernel is asked for. `make tutorials` runs them in full
# and stores their outputs; tests/test_tutorials.py fails where one is stored without.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}


def literal_shapes(app, what, name, obj, options, lines):
    """Show ``# shape: (*batch, D)`` in docstrings as code: its star is no emphasis."""
    lines[:] = [re.sub(r"\s*# (shape: )(.+)", r" – \1``\2``", line) for line in lines]


def links_of_tutorials(app, docname, source):
    """Make links of a tutorial to pages and to other tutorials links within the documentation.

    In a tutorial they are right where it lies, in tutorials/; here that folder is a link.
    """
    if docname.startswith("tutorials/"):
        words = r'\[([^]\["\\\n]+)\]'
        page = re.sub(words + r"\(\.\./docs/(\w+)\.md\)", r"{doc}`\1 </\2>`", source[0])
        source[0] = re.sub(words + r"\((\w+)\.ipynb\)", r"{doc}`\1 </tutorials/\2>`", page)


def is_public(kind):
    """Whether a class has a page, here or elsewhere."""
    if not kind.__module__.startswith("pyro_blr"):
        return not kind.__name__.startswith("_")
    places = (pyro_blr, pyro_blr.families, pyro_blr.guides, pyro_blr.latent, pyro_blr.errors)
    places += (pyro_blr.geometry,)
    return any(vars(place).get(kind.__name__) is kind for place in places)


def public_bases(app, name, obj, options, bases):
    """Show for a base without a page the first of its own bases that has one."""
    bases[:] = [tuple if b is NamedTuple else b for b in bases]  # sphinx takes it for a class
    shown = [next(c for c in b.__mro__ if is_public(c)) for b in bases if inspect.isclass(b)]
    bases[:] = dict.fromkeys(shown) if shown else bases


def setup(app):
    """Called by sphinx."""
    app.connect("source-read", links_of_tutorials)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-process-docstring", literal_shapes)
