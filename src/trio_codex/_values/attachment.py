"""Where a client attaches, and how."""

from __future__ import annotations

import re
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from trio_codex._core.arguments import check_type
from trio_codex._values.auth import Auth, BearerToken, SignedBearer
from trio_codex._values.config import ClientConfig

_CREDENTIALS: Final = re.compile(r"(?:[\w+.-]*:)?(?://)?[^/?#]*@")
"""Credentials at the beginning of anything that somebody could take for a URL. Errors of ``urlsplit()`` would quote them."""


def _with_lower_scheme(url: Any) -> Any:
    if not isinstance(url, str):
        return url  # refused below
    scheme, colon, rest = url.partition(":")
    return scheme.lower() + colon + rest


def _check_url(_: object, __: attrs.Attribute[Any], url: str) -> None:
    check_type("url", url, str, 'pass "unix://PATH", "ws://HOST:PORT" or "wss://HOST/PATH"')
    if url.startswith("unix:"):
        return
    if _CREDENTIALS.match(url):
        raise ValueError("leave credentials out of the URL: pass auth=BearerToken(…)")
    urlsplit(url)


def _without_query(url: str) -> str:
    # A query may contain a token.
    return repr(url if url.startswith("unix:") else url.partition("?")[0])


def _check_auth(_: object, __: attrs.Attribute[Any], auth: Auth | None) -> None:
    if auth is not None and not isinstance(auth, SignedBearer):
        check_type("auth", auth, BearerToken, "pass BearerToken(…) or SignedBearer(…)")


def _check_ssl_context(_: object, __: attrs.Attribute[Any], context: ssl.SSLContext | None) -> None:
    if context is not None:
        check_type("ssl_context", context, ssl.SSLContext, "pass ssl.create_default_context(cafile=…)")


def _check_config(_: object, __: attrs.Attribute[Any], config: ClientConfig) -> None:
    check_type("config", config, ClientConfig, "pass settings as ClientConfig(…)")


@attrs.frozen
class Attachment:
    """A server that somebody else started, and how to attach to it. :func:`attach_codex` takes one in place of a URL.

    Its representation shows no token.

    Attributes:
        url: ``unix://PATH``, ``unix://`` for the daemon's socket in ``CODEX_HOME``, ``ws://HOST:PORT`` or ``wss://…``.
        auth: A token, if the server requires one.
        config: The configuration of the client.
        ssl_context: For ``wss://``; the default trusts the certificate authorities of the system.
        insecure: Allow ``ws://`` to another machine, which sends prompts and tokens in the clear.

    Raises:
        ValueError: The URL contains credentials, or is malformed.
        TypeError: A value has the wrong type.
    """

    url: str = attrs.field(repr=_without_query, converter=_with_lower_scheme, validator=_check_url)
    auth: Auth | None = attrs.field(default=None, kw_only=True, validator=_check_auth)
    config: ClientConfig = attrs.field(factory=ClientConfig, kw_only=True, validator=_check_config)
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, kw_only=True, validator=_check_ssl_context)
    insecure: bool = attrs.field(default=False, kw_only=True)
