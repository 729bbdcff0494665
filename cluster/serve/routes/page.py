"""The pages at ``/`` and ``/docs``: static files beside this package, loaded without a key.

The page asks for the key itself and keeps it in the tab. Its policy lets it run this service's own
scripts and nothing else, so that a title full of markup stays a title.
"""

from importlib.resources import files

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

INDEX = "index.html"
DOCS = "docs.html"
MEDIA_TYPES = {
    INDEX: "text/html; charset=utf-8",
    DOCS: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        ("api.js", "cards.js", "docs.js", "dom.js", "page.js", "speed.js", "words.js"),
        "text/javascript; charset=utf-8",
    ),
}
PAGE_PATHS = frozenset({"/", "/docs", "/favicon.ico", *(f"/page/{name}" for name in MEDIA_TYPES)})
"""They hold nothing of a shop or its users, and need no key."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # A page of one version must not call the routes of another.
    "Cache-Control": "no-cache",
}
router = APIRouter(include_in_schema=False)


@router.get("/")
async def get_page() -> Response:
    """Return the page."""
    return _file(INDEX)


@router.get("/docs")
async def get_docs() -> Response:
    """Return the contract for readers; it loads nothing from elsewhere."""
    return _file(DOCS)


@router.get("/favicon.ico")
async def get_icon() -> Response:
    """Return the icon, which browsers ask for on pages that name none."""
    return _file("icon.svg")


@router.get("/page/{name}")
async def get_file(name: str) -> Response:
    """Return one of the page's files."""
    if name not in MEDIA_TYPES:
        raise HTTPException(404, f"the page has no file {name!r}")
    return _file(name)


def _file(name: str) -> Response:
    # Read at each call: some 40 kB, seldom asked for, and a replica need not hold them.
    body = files("cluster.serve").joinpath("page", name).read_bytes()
    return Response(body, media_type=MEDIA_TYPES[name], headers=HEADERS)
