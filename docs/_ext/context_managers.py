"""Shows of a context manager what ``with`` gives, as the reference shows of a coroutine what ``await`` gives."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

MADE_BY = {"AbstractAsyncContextManager", "AbstractContextManager", "AsyncGenerator", "Generator"}


def unwrap(app: Sphinx, doctree: nodes.document) -> None:
    """Take the context manager off what is returned, where the signature says ``with``."""
    for signature in doctree.findall(addnodes.desc_signature):
        if not signature.astext().startswith(("async with ", "with ")):
            continue
        for returns in signature.findall(addnodes.desc_returns):
            made_by = returns.children[0]
            if made_by.get("reftarget", "").rpartition(".")[2] in MADE_BY:
                returns.children = returns.children[2:-1]  # what is between the brackets


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("doctree-read", unwrap)
    return {"parallel_read_safe": True}
