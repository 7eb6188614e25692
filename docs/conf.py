"""Configuration of the documentation: ``uv run --group docs sphinx-build -n -W docs docs/_build``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import trio_codex

project = "trio-codex"
author = "The trio-codex authors"
copyright = "2026, The trio-codex authors"
version = release = trio_codex.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "context_managers",
    "protocol_tables",
    "short_code",
]
# Large packages, which are installed only in separate environments.
autodoc_mock_imports = ["inspect_ai", "ray"]
exclude_patterns = ["_build"]
nitpicky = True

# The build must not need a network. Without this variable, names of Python and Trio are shown without links.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
    }
    if os.environ.get("DOCS_INTERSPHINX")
    else {}
)
nitpick_ignore_regex = [
    # Names of other projects.
    (
        "py:.*",
        r"(attrs|collections|contextlib|contextvars|enum|hypothesis|inspect_ai|json|logging|msgspec|os|pathlib|ssl|trio|types|typing)\..*",
    ),
    (
        "py:exc",
        r"(Assertion|Import|Key|Lookup|OS|Runtime|Type|Value)Error|Exception|KeyboardInterrupt|SystemExit",
    ),
    ("py:exc", r"ray\.exceptions\.RayError"),
    ("py:exc", r"tomllib\.TOMLDecodeError"),
    (
        "py:class",
        r"Any|AbstractAsyncContextManager|AsyncGenerator|AsyncIterator|Awaitable|Callable|Collection|Generator"
        r"|Iterable|Iterator|Literal|Mapping|MeterProvider|Path|Self|Sequence|TracebackType|TracerProvider|UnionType",
    ),
    # Type variables, and names that appear in signatures but are not documented.
    (
        "py:class",
        r"(trio_codex(\.\w+)*\.)?(AnyTool|Api|E|P|R|R_co|T|W|OnFailed|Outcome|OutputT_co|Phase|PlanStatus|RestP|SelfT)"
        r"|wire\.Null",
    ),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "trio-codex"
html_static_path = ["_static"]
html_css_files = ["trio_codex.css"]
html_copy_source = False
html_show_sourcelink = False
