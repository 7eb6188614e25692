"""Marks short code, which a narrow screen must not break in the middle of a word."""

import re

from docutils import nodes
from sphinx.application import Sphinx

WORD = re.compile(r"[\w\"'=-]{1,11}")
SHORT = 8
"""The length that fits into each of four columns on a phone. Longer words fit into three."""


def mark(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Add the class ``word`` to code of one word, and ``short`` if it has few characters."""
    for literal in doctree.findall(nodes.literal):
        text = literal.astext()
        if WORD.fullmatch(text):
            literal["classes"] += ["word", "short"] if len(text) <= SHORT else ["word"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True}
