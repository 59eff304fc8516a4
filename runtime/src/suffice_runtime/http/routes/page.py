"""Static files of the page for people, under a policy that allows what this server itself returns and nothing else."""

import hashlib
from importlib import resources

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.http.transport import tokens

router = APIRouter()

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

_HEADERS = {
    "cache-control": "no-cache",  # every use is checked by the ETag, so that an upgrade is seen at once
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def _responses() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return the body and the headers of each file by its path."""
    folder, found = resources.files("suffice_runtime.http") / "page", {}
    for path, name in (("/", "index.html"), *((f"/page/{name}", name) for name in tokens.PAGE)):
        body = (folder / name).read_bytes()
        kind, tag = _TYPES[name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        found[path] = body, {**_HEADERS, "etag": tag, "content-type": f"{kind}; charset=utf-8"}
    return found


FILES = _responses()
"""Body and headers of each file by its path."""


async def static(request: Request) -> Response:
    """Return a file, or that it has not changed."""
    body, headers = FILES[request.scope["path"]]
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["etag"] in tags or "*" in tags:
        return Response(status_code=304, headers={k: v for k, v in headers.items() if k != "content-type"})
    return Response(body, headers=headers)


for _path in FILES:
    router.add_api_route(_path, static, methods=["GET", "HEAD"], include_in_schema=False)
