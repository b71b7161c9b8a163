"""Sphinx configuration: furo theme, MyST Markdown, API pages from docstrings."""

import resel_torchrl

project = "resel_torchrl"
author = "the resel_torchrl authors"
copyright = "2026, " + author  # noqa: A001
version = release = resel_torchrl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
exclude_patterns = ["_build", "results"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"
napoleon_google_docstring = True
