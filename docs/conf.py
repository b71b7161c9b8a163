"""Sphinx configuration: furo theme, MyST Markdown, API pages from docstrings."""

import inspect
import sys
from pathlib import Path

import resel_torchrl

sys.path.insert(0, str(Path(__file__).parent))

project = "resel_torchrl"
author = "the resel_torchrl authors"
copyright = "2026, " + author
version = release = resel_torchrl.__version__

extensions = [
    "curves",
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


def show_constructor(app, what, name, obj, options, signature, returns):
    """Give a loss the signature of its constructor, which its metaclass hides."""
    if what == "class" and signature == "(*args, **kwargs)":
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
        signature = str(inspect.Signature(bare))
    return signature, returns


def setup(app):
    """Connect the handlers above."""
    app.connect("autodoc-process-signature", show_constructor)
