"""Find open TCP ports of a host, as seen from another one.

Not run yet.
"""

import sys

from tests.chaos.hosts import Host

_SCAN = """
import concurrent.futures, socket, sys
def is_open(port):
    try:
        socket.create_connection((sys.argv[1], port), timeout=2).close()
    except OSError:
        return None
    return port
with concurrent.futures.ThreadPoolExecutor(200) as pool:
    print(*(port for port in pool.map(is_open, range(1, 65536)) if port))
"""


def open_ports(seen_from: Host, address: str) -> list[int]:
    """Return every port that accepts a connection, out of all there are."""
    return [int(port) for port in seen_from.run(sys.executable, "-c", _SCAN, address).split()]
