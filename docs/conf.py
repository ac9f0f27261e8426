"""Configuration of the documentation site: `sphinx-build -W --keep-going docs build/site`."""

import configparser
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of torch and the engine sleep

project = "densecrf_rnn"
author = "the densecrf_rnn contributors"
copyright = "the densecrf_rnn contributors, MIT licence"  # shown in the footer
_metadata = configparser.ConfigParser()
_metadata.read(ROOT / "setup.cfg", encoding="utf-8")
release = version = _metadata["metadata"]["version"]

extensions = [
    "myst_parser",  # the Markdown pages
    "sphinx.ext.autodoc",  # the reference, from docstrings
    "sphinx.ext.napoleon",  # NumPy-style docstrings
    "sphinx.ext.viewcode",  # links to highlighted source
    "sphinx_copybutton",
    "repository_pages",  # README and others become pages; links between files of the repository
    "docstrings",  # what docstrings write as in Markdown
    "gallery",  # the examples, run
    "command_pages",  # the options of the command line
]
exclude_patterns = ["_ext", "_static"]
default_role = "py:obj"  # `name` is code, and a link where the reference has it
nitpicky = False  # docstrings name types in prose, which are no references

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4  # the anchors that the repository's own pages link to

autodoc_mock_imports = ["monai", "transformers"]  # documented without being installed
autodoc_preserve_defaults = True  # CRFParams(), not all of its fields
autodoc_typehints = "none"  # the docstrings say types in words
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are listed once
napoleon_use_rtype = False
napoleon_preprocess_types = False
add_module_names = False
python_display_short_literal_types = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"densecrf_rnn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style, pygments_dark_style = "default", "monokai"
