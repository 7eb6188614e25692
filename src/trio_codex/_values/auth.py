"""How a client proves who it is to a server that it attaches to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from trio_codex._core.arguments import check_type

TOKEN_SECONDS: Final = 60
"""How long a signed token is valid. It is needed only while a connection opens."""

MIN_SECRET_BYTES: Final = 32
"""The server refuses shorter secrets."""


def _elided(_: object) -> str:
    return "…"


def _without_newlines(_: object, __: attrs.Attribute[Any], value: str) -> None:
    check_type("token", value, str, "pass a string")
    if not value or any(not "\x21" <= character <= "\x7e" for character in value):
        raise ValueError("a token is a line of printable ASCII without spaces")


def _as_bytes(value: str | bytes) -> bytes:
    if isinstance(value, str):
        value = _encode("secret", value, "pass it as bytes")
    check_type("secret", value, bytes, "pass a string or bytes")
    return value


def _claim(_: object, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None:
        check_type(attribute.name, value, str, "pass a string")
        _encode(attribute.name, value, "pass valid Unicode")


def _encode(name: str, value: str, hint: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        pass
    # Outside the handler, because the original error contains the value.
    raise ValueError(f"{name} contains a lone surrogate: {hint}")


@attrs.frozen
class BearerToken:
    """A token that the server knows, such as that of ``--ws-auth capability-token``.

    Attributes:
        token: The token. Errors, logs and representations never show it.

    Raises:
        ValueError: It cannot be sent in a header.
        TypeError: It is not a string.
    """

    token: str = attrs.field(repr=_elided, validator=_without_newlines)

    def mint(self) -> str:
        """Return the token."""
        return self.token


@attrs.frozen
class SignedBearer:
    """A token that is signed for each connection, for ``--ws-auth signed-bearer-token``: a JWT with HS256.

    Attributes:
        secret: The shared secret, at least 32 bytes. Errors, logs and representations never show it.
        issuer: The ``iss`` that the server expects, if any.
        audience: The ``aud`` that the server expects, if any.

    Raises:
        ValueError: The secret is too short, or a value is not valid Unicode.
        TypeError: A value has the wrong type.
    """

    secret: bytes = attrs.field(repr=_elided, converter=_as_bytes)
    issuer: str | None = attrs.field(default=None, kw_only=True, validator=_claim)
    audience: str | None = attrs.field(default=None, kw_only=True, validator=_claim)

    def __attrs_post_init__(self) -> None:
        if len(self.secret) < MIN_SECRET_BYTES:
            raise ValueError(
                f"the secret has {len(self.secret)} bytes; the server needs at least {MIN_SECRET_BYTES}"
            )

    def mint(self) -> str:
        """Return a token that is valid for a minute from now."""
        now = int(time.time())
        claims: dict[str, object] = {"iat": now, "exp": now + TOKEN_SECONDS}
        if self.issuer is not None:
            claims["iss"] = self.issuer
        if self.audience is not None:
            claims["aud"] = self.audience
        signed = f"{_base64({'alg': 'HS256', 'typ': 'JWT'})}.{_base64(claims)}"
        signature = hmac.new(self.secret, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_encoded(signature)}"


Auth: TypeAlias = BearerToken | SignedBearer


def _base64(value: object) -> str:
    return _encoded(msgspec.json.encode(value))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
