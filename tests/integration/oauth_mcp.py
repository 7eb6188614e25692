"""An MCP server over HTTP that requires a login, its authorization server, and a browser whose user consents.

Implements only what a client needs of RFC 8414, 7591, 6749 and 9728: metadata, registration, a redirect with a code,
and a token for the code. MCP works without sessions and streams.
"""

import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlencode, urlsplit

import trio

from trio_codex.testing._serve import serve

TOKEN = "token-of-the-test"


class OauthMcp:
    def __init__(self, consents):
        self.url = None
        self.consents = consents

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                await send({"type": f"{(await receive())['type']}.complete"})
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        status, answer, extra = self.answer(scope["method"], scope["path"], query, headers, body)
        content = b"" if answer is None else json.dumps(answer).encode()
        extra = {"content-type": "application/json", "content-length": str(len(content)), **extra}
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in extra.items()],
            }
        )
        await send({"type": "http.response.body", "body": content})

    def answer(self, method, path, query, headers, body):
        if path.startswith("/.well-known/oauth-protected-resource"):
            return 200, {"resource": f"{self.url}/mcp", "authorization_servers": [self.url]}, {}
        if path.startswith("/.well-known/"):
            return 200, self.metadata(), {}
        match method, path:
            case "POST", "/register":
                asked = json.loads(body)
                return 201, {**asked, "client_id": "client-1", "token_endpoint_auth_method": "none"}, {}
            case "GET", "/authorize":
                given = {"code": "code-1"} if self.consents else {"error": "access_denied"}
                target = query["redirect_uri"] + "?" + urlencode({**given, "state": query["state"]})
                return 302, None, {"location": target}
            case "POST", "/token":
                return 200, {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}, {}
            case "POST", "/mcp" if headers.get("authorization") == f"Bearer {TOKEN}":
                return self.mcp(json.loads(body))
            case "POST", "/mcp":
                where = f'Bearer resource_metadata="{self.url}/.well-known/oauth-protected-resource/mcp"'
                return 401, {}, {"www-authenticate": where}
            case _:
                return 405, {}, {}

    def metadata(self):
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
        }

    def mcp(self, message):
        if "id" not in message:
            return 202, None, {}
        match message["method"]:
            case "initialize":
                result = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "locked", "version": "1"},
                }
            case "tools/list":
                tool = {"name": "secret", "description": "Tells.", "inputSchema": {"type": "object"}}
                result = {"tools": [tool]}
            case "tools/call":
                result = {"content": [{"type": "text", "text": "42"}]}
            case _:
                result = {}
        return 200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, {}

    async def consent(self, url):
        """Act as a browser whose user consents: visit the page, and follow its redirects."""
        await fetch(await fetch(url))


async def fetch(url):
    """GET a page; return the target of its redirect."""
    parts = urlsplit(url)
    stream = await trio.open_tcp_stream(parts.hostname, parts.port)
    async with stream:
        target = f"{parts.path}?{parts.query}"
        await stream.send_all(
            f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode()
        )
        answer = b"".join([piece async for piece in stream]).decode()
    for line in answer.partition("\r\n\r\n")[0].splitlines():
        name, _, value = line.partition(": ")
        if name.lower() == "location":
            return value
    return None


@asynccontextmanager
async def oauth_mcp(*, consents=True):
    app = OauthMcp(consents)
    async with serve(app) as port:
        app.url = f"http://127.0.0.1:{port}"
        yield app
