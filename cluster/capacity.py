"""What a load needs: cores, hours and money from measured unit costs, and a queue for requests.

python -m tests.benchmarks.capacity > cluster/deploy/CAPACITY.md

A model, not a measurement: each unit cost was measured on one small machine and is multiplied. What
grows otherwise than in proportion stands under "breaks first". Requests wait in one queue for many
cores (M/M/c, Erlang's C formula), which is kinder than real traffic: leave room.

Source: Erlang 1917, as in Kleinrock, "Queueing Systems" I (1975), section 3.5.
"""

import math
from collections.abc import Sequence

CORE_HOUR = 0.04
"""Price of one core for an hour, in dollars; memory included."""
CORES = 64
"""Of the cluster that hours are given for."""
MAX_WAIT_S = 0.02
"""What the 99th of 100 requests may wait for a core."""
PREPARE_S = 156 / 16e6
"""An event from file to sequence; the README's measured 16,000,000 events."""
EMBED_S = 23.9 / 9348
"""A distinct text, MiniLM on CPU; the README's demo."""
TRAIN_S = 1 / 11_070
"""A target of one epoch, 100,000 items; the README's training speed."""
EPOCHS = 4
GRAPH_S = 6e-3
"""A request's way through three deployments that do nothing, both Serve knobs on."""
RANK_S = 1.24e-3
"""A list of 10 after 50 events without the ranker's trees, batch of one, 10,000 items."""
SEARCH_S = 7.6e-9
"""An item looked at in exact search, 128 wide, batches of 8, one thread."""
COMMITS_PER_S = 20_000
"""Events a second that one SQLite log takes at full group commit."""
EVENTS_PER_LIST = 0.1
"""Events that come back for each list; the list itself is logged as an impression."""
WIDTH, TEXT_WIDTH, FLOAT_BYTES = 128, 384, 4
_HOUR = 3600


def wait_probability(load: float, cores: int) -> float:
    """Return the share of requests that find no core free (Erlang C).

    Args:
        load: arrivals a second times seconds of one.
        cores: that serve; more than the load.

    >>> round(wait_probability(2.0, 3), 4)
    0.4444
    """
    assert cores > load
    blocked = 1.0
    for number in range(1, cores + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / cores * (1 - blocked))


def cores_for(rate: float, service_s: float, *, max_wait_s: float = MAX_WAIT_S) -> int:
    """Return the fewest cores at which 99 of 100 requests wait no longer than ``max_wait_s``.

    >>> cores_for(100, 0.01)
    3
    """
    load = rate * service_s
    cores = math.floor(load) + 1
    while True:
        share = wait_probability(load, cores)
        if share * math.exp(-(cores - load) / service_s * max_wait_s) <= 0.01:
            return cores
        cores += 1


def page() -> str:
    """Return the capacity page."""
    return _TEXT.format(
        cores=CORES,
        price=CORE_HOUR,
        wait=1000 * MAX_WAIT_S,
        units=_table(
            ("unit", "cost", "measured by"),
            [
                ("event to sequence", f"{1e6 * PREPARE_S:.2f} CPU-µs", "README, 16,000,000 events"),
                ("text, MiniLM", f"{1e3 * EMBED_S:.2f} CPU-ms", "README, demo"),
                ("target of an epoch", f"{1e6 * TRAIN_S:.0f} CPU-µs", "README, training speed"),
                (
                    "request through the graph",
                    f"{1e3 * GRAPH_S:.1f} CPU-ms",
                    "no-op graph, HAProxy",
                ),
                ("list without trees", f"{1e3 * RANK_S:.2f} CPU-ms", "one process, 10,000 items"),
                ("item searched", f"{1e9 * SEARCH_S:.1f} CPU-ns", "1,000,000 x 128, batches of 8"),
                (
                    "event logged",
                    f"{1e6 / COMMITS_PER_S:.0f} µs of one log",
                    "SQLite, commits of 256",
                ),
            ],
        ),
        events=_table(
            ("events", "prepare", "train", "both on the cluster", "cost"), map(_events, (7, 9, 11))
        ),
        items=_table(
            ("items", "embed once", "on the cluster", "cost", "vectors", "one exact search"),
            map(_items, (6, 8)),
        ),
        requests=_table(
            ("requests/s", "cores", "cost a day", "what one log could take, used"),
            map(_requests, (3, 4, 5)),
        ),
    )


def _events(power: int) -> tuple[str, ...]:
    number = 10.0**power
    prepare, train = number * PREPARE_S / _HOUR, EPOCHS * number * TRAIN_S / _HOUR
    hours = prepare + train
    return (
        f"10^{power}",
        f"{prepare:,.2f} core-h",
        f"{train:,.1f} core-h",
        f"{hours / CORES:,.2f} h",
        f"${hours * CORE_HOUR:,.2f}",
    )


def _items(power: int) -> tuple[str, ...]:
    number = 10.0**power
    hours = number * EMBED_S / _HOUR
    gib = number * (WIDTH + TEXT_WIDTH) * FLOAT_BYTES / 2**30
    return (
        f"10^{power}",
        f"{hours:,.1f} core-h",
        f"{hours / CORES:,.2f} h",
        f"${hours * CORE_HOUR:,.2f}",
        f"{gib:,.1f} GiB",
        f"{1000 * number * SEARCH_S:,.1f} CPU-ms",
    )


def _requests(power: int) -> tuple[str, ...]:
    rate = 10.0**power
    cores = cores_for(rate, GRAPH_S + RANK_S + 1e5 * SEARCH_S)
    return (
        f"10^{power}",
        f"{cores:,}",
        f"${24 * cores * CORE_HOUR:,.2f}",
        f"{rate * (1 + EVENTS_PER_LIST) / COMMITS_PER_S:.0%}",
    )


def _table(head: Sequence[str], rows: "Sequence[Sequence[str]] | map[tuple[str, ...]]") -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_TEXT = """# Capacity

Made by `python -m tests.benchmarks.capacity`: unit costs measured on two cores, multiplied. It
is a model. Nothing of this size was run; a faster core, a GPU or a network in between changes it.
One core costs ${price} an hour, the cluster has {cores} of them.

{units}

## Events

Prepare reads, cleans and orders them; train goes over them four times. Without ranker, evaluation
and what Ray takes to start.

{events}

*Breaks first:* one process holds all sequences while it trains and evaluates, so memory ends it
between 10^8 and 10^9 events. Turn on: a window of the newest months (`--events` of those files),
`--cleaning.min-user-events`, the `gpu` profile. 10^11 needs sampling of users.

## Items

MiniLM on CPU, each text once; later runs encode what changed. Vectors: 384 wide of the text and 128
of the model.

{items}

*Breaks first:* exact search. At 10^6 items it costs as much as the rest of a request; at 10^8 a
request takes most of a core for a second and the vectors no longer fit a replica. There is no
approximate index here yet: keep catalogs below 10^6, or split them by market into services.

## Requests

100,000 items, lists without the ranker's trees; of 100 requests 99 wait at most {wait:.0f} ms for
a core.

{requests}

*Breaks first:* the log. As one SQLite file of one machine it takes an impression for every list and
an event for every tenth: 10^5 requests/s are more than that. Turn on: feedback on a Redis server
(`--history`), whose own rate nobody here has measured at this size; then several services, each
with the users of one partition; then a load balancer in front of the proxies, which the profile
`cpu` puts on every node.
"""
