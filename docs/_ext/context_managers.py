"""Show the value that ``with`` binds as the return type of a context manager, as for the result of a coroutine."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

MADE_BY = {"AbstractAsyncContextManager", "AbstractContextManager", "AsyncGenerator", "Generator"}


def unwrap(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the return type by the type in its brackets, in signatures that begin with ``with``."""
    for signature in doctree.findall(addnodes.desc_signature):
        if not signature.astext().startswith(("async with ", "with ")):
            continue
        for returns in signature.findall(addnodes.desc_returns):
            made_by = returns.children[0]
            if made_by.get("reftarget", "").rpartition(".")[2] in MADE_BY:
                returns.children = returns.children[2:-1]  # the type between the brackets


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event handler."""
    app.connect("doctree-read", unwrap)
    return {"parallel_read_safe": True}
