"""Settings of Sphinx for the API reference and the pages of docs/ (`make docs`)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tcm_d2 import __version__  # noqa: E402

project = "tcm_d2"
author = "the tcm_d2 authors"
copyright = f"2026, {author}"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
root_doc = "index"
html_theme = "alabaster"
html_theme_options = {"description": "Oriented object detection prompted by text"}

apidoc_modules = [
    {
        "path": str(ROOT / "tcm_d2"),
        "destination": "api",
        # Commands; docs/command.md and their --help describe them.
        "exclude_patterns": [str(ROOT / "tcm_d2" / "cli*"), str(ROOT / "tcm_d2" / "__main__.py")],
        "separate_modules": True,
        "module_first": True,
    }
]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_heading_anchors = 3
# Links to files outside of docs/ (sources, configurations) are for readers of the repository.
# Two classes may have one name in different modules (``Scene``); Sphinx then links to the first.
suppress_warnings = ["myst.xref_missing", "myst.header", "ref.python"]
