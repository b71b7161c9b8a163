"""Sphinx configuration: furo theme, MyST Markdown, API pages from docstrings."""

import resel_torchrl

project = "resel_torchrl"
author = "the resel_torchrl authors"
copyright = "2026, " + author
version = release = resel_torchrl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"resel_torchrl {version}"
exclude_patterns = ["_build", "results"]
# `name` in a docstring is code.
default_role = "code"
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
