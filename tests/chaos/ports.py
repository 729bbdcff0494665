"""Find the open TCP ports of a host and knock at them, as seen from another host."""

import json
import sys
from dataclasses import dataclass

from tests.chaos.hosts import Host

METHODS = ("GET", "POST", "PUT", "DELETE")
PATHS = ("/", "/api/jobs/", "/api/serve/applications/", "/api/version")
SILENT = 0
"""The code of a port that speaks no HTTP, or hangs up."""
_KNOCK = """
import concurrent.futures, http.client, itertools, json, socket, sys
address, ports, methods, paths, tokens = json.loads(sys.argv[1])

def is_open(port):
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return None
    return port

def knock(asked):
    port, method, path, (who, token) = asked
    headers = {"Authorization": "Bearer " + token} if token else {}
    door = http.client.HTTPConnection(address, port, timeout=5)
    try:
        door.request(method, path, body=None if method == "GET" else "{}", headers=headers)
        answer = door.getresponse()
        code, body = answer.status, answer.read(100_000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        code, body = 0, ""
    finally:
        door.close()
    return [port, method, path, who, code, "submission_id" in body]

with concurrent.futures.ThreadPoolExecutor(100) as pool:
    found = [port for port in pool.map(is_open, ports or range(1, 65536)) if port]
    asked = itertools.product(found, methods, paths, tokens.items())
    print(json.dumps(list(pool.map(knock, asked))))
"""


@dataclass(frozen=True, kw_only=True)
class Knock:
    """Say what a port answered."""

    port: int
    method: str
    path: str
    who: str
    """Whose token was shown."""
    code: int
    """HTTP status, or :data:`SILENT`."""
    tells_jobs: bool
    """Whether the body names submitted jobs."""


def knock(
    seen_from: Host, address: str, *, tokens: dict[str, str], ports: tuple[int, ...] = ()
) -> list[Knock]:
    """Return what every port that accepts a connection answers to every method, path and token.

    Args:
        seen_from: who knocks.
        address: of the host that is looked at.
        tokens: who shows which; an empty one is not sent.
        ports: where to knock; out of all there are, if none is named.
    """
    question = json.dumps([address, ports, METHODS, PATHS, tokens])
    names = ("port", "method", "path", "who", "code", "tells_jobs")
    answer = json.loads(seen_from.run(sys.executable, "-c", _KNOCK, question))
    return [Knock(**dict(zip(names, row, strict=True))) for row in answer]


def matrix(knocks: list[Knock]) -> str:
    """Return the codes by port and token, a line a port that speaks HTTP."""
    lines = []
    for port in sorted({one.port for one in knocks}):
        at = [one for one in knocks if one.port == port]
        if any(one.code != SILENT for one in at):
            cells = [
                f"{who}: {sorted({one.code for one in at if one.who == who})}"
                for who in dict.fromkeys(one.who for one in at)
            ]
            lines.append(f"{port:>6}  {'  '.join(cells)}")
    return "\n".join(lines)
