# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The documentation: sphinx with MyST pages, tutorials by myst-nb, the API from docstrings."""

import re
from importlib.metadata import version as installed_version

project = "pyro_blr"
author = "Contributors to the pyro_blr project"
copyright = "Contributors to the pyro_blr project"  # sphinx reads this name
release = version = installed_version("pyro-blr")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
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


def setup(app):
    """Called by sphinx."""
    app.connect("autodoc-process-docstring", literal_shapes)
