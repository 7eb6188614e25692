"""Mark short code, so that a narrow screen does not break it in the middle of a word."""

import re

from docutils import nodes
from sphinx.application import Sphinx

WORD = re.compile(r"[\w\"'=-]{1,11}")
SHORT = 8
"""The length that fits into a table of four columns on a phone. Longer words fit into three columns."""


def mark(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Add the class ``word`` to literals of one word, and ``short`` to those of few characters."""
    for literal in doctree.findall(nodes.literal):
        text = literal.astext()
        if WORD.fullmatch(text):
            literal["classes"] += ["word", "short"] if len(text) <= SHORT else ["word"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event handler."""
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True}
