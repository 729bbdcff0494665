"""What the service counts and times, in Prometheus's text form, over all its replicas.

Serve's proxy sends a scrape to any one gateway replica, so that replica must answer for all. Each
process keeps its numbers in small files of one folder (``prometheus_client``'s multiprocess mode),
which whoever is asked adds up: a replica that has died keeps what it had counted. The folder is
emptied when ``serve`` starts. Like the event log it is one machine's.

Labels hold routes, statuses, stages, reasons and releases: never an id, a query or a key.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from ray import serve
from ray.serve.exceptions import RayServeException

from rec.ranking.feedback.stores import Log

FOLDER = Path("feedback/metrics")
"""Beside the event log, in the workspace."""
RESERVED_BYTES = 1 << 20
"""Of each file: several times what all routes, stages and releases take."""
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where ``prometheus_client`` looks for the folder."""
COVERAGE_IMPRESSIONS = 1000
"""Newest impressions that the catalog's coverage is taken over; a few ms to read."""
SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""Bounds of latency histograms: dense around the 5 to 30 ms that an answer takes."""
LAG_SECONDS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0)
"""Bounds of the feedback lag: from at once to a day's batch."""
BATCHES = (1, 2, 4, 8, 16, 32)


_log = logging.getLogger(__name__)


class Metrics:
    """Count and time what one process does."""

    def __init__(self, folder: Path | None = None) -> None:
        """Count into files of a folder that other processes share; alone without one."""
        self._folder = folder
        if folder is not None and _reserve(folder):
            # Ray starts its workers before we are asked, so the variable cannot be there when the
            # library is imported, which is when it chooses.
            os.environ[VARIABLE] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "HTTP requests.", "route", "method", "status")
        self._duration = self._histogram(
            "request_duration_seconds", "From request to answer.", "route", bounds=SECONDS
        )
        self._stages = self._histogram(
            "stage_duration_seconds", "Parts of a list's time.", "stage", bounds=SECONDS
        )
        self._lists = self._counter("impressions", "Lists answered.", "release")
        self._degraded = self._counter("degraded", "Lists that lacked something.", "reason")
        self._lacking = self._counter(
            "degraded_impressions", "Lists that lacked something.", "release"
        )
        self._list_duration = self._histogram(
            "list_duration_seconds", "From request to list.", "release", bounds=SECONDS
        )
        self._events = self._counter("events", "Events sent in.", "outcome")
        self._clicks = self._counter(
            "impression_events", "Stored events that name a list's impression.", "release"
        )
        self._narrations = self._counter(
            "narrations", "Texts that a language model was to write.", "outcome"
        )
        self._damages = self._counter(
            "log_damages", "Damage of the event log: found, mended, failed.", "outcome"
        )
        # An increase is seen only of what was 0 before.
        self._damages.labels("found")
        self._lag = self._histogram(
            "feedback_lag_seconds", "From an event to its place on disk.", bounds=LAG_SECONDS
        )
        self._batches = self._histogram(
            "batch_size_requests", "Requests answered at once.", "deployment", bounds=BATCHES
        )

    def count_narrations(self, outcome: str, number: int) -> None:
        """Count texts that a language model was to write: accepted, refused, or too late."""
        self._narrations.labels(outcome).inc(number)

    def count_damage(self, outcome: str) -> None:
        """Count what became of a damaged event log: found, mended, or failed."""
        self._damages.labels(outcome).inc()

    def count_request(self, route: str, *, method: str, status: int, seconds: float) -> None:
        """Count an answered request; ``route`` is the template, never the path."""
        self._requests.labels(route, method, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def count_list(
        self, release: str, *, timings_ms: Mapping[str, float], degraded: Sequence[str]
    ) -> None:
        """Count an answered list, its stages and what it lacked."""
        self._lists.labels(release).inc()
        for stage, milliseconds in timings_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        if "total" in timings_ms:
            self._list_duration.labels(release).observe(timings_ms["total"] / 1000)
        if degraded:
            self._lacking.labels(release).inc()
        for reason in degraded:
            self._degraded.labels(reason).inc()

    def count_events(
        self, *, accepted: int, duplicates: int, rejected: int, lags_s: Iterable[float]
    ) -> None:
        """Count what became of sent events, and how old they were when they were stored."""
        for outcome, number in (
            ("accepted", accepted),
            ("duplicate", duplicates),
            ("rejected", rejected),
        ):
            self._events.labels(outcome).inc(number)
        for seconds in lags_s:
            self._lag.observe(max(0.0, seconds))

    def count_clicks(self, release: str, number: int) -> None:
        """Count events that followed from lists of a release."""
        self._clicks.labels(release).inc(number)

    def count_batch(self, deployment: str, size: int) -> None:
        """Count a batch."""
        self._batches.labels(deployment).observe(size)

    def text(
        self,
        *,
        release: str,
        num_items: int,
        coverage: float | None,
        canary: tuple[str, float] | None = None,
    ) -> bytes:
        """Return the numbers of all processes, in Prometheus's text form.

        Args:
            release: that answers now.
            num_items: of its catalog.
            coverage: share of them in the newest lists; ``None`` before the first.
            canary: name of the release beside it, and its share of the users.
        """
        registry = self._registry
        if self._folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry) + generate_latest(
            _now(release=release, num_items=num_items, coverage=coverage, canary=canary)
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"nextray_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str, bounds: Sequence[float]) -> Histogram:
        return Histogram(f"nextray_{name}", text, labels, registry=self._registry, buckets=bounds)


def _reserve(folder: Path) -> bool:
    """Take the space of this process's numbers from the disk; return whether there was any.

    The library maps its files into memory, where a write that finds the disk full ends the process.
    """
    aside = folder / f".{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("counter", "histogram"):
            with aside.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, RESERVED_BYTES)
            aside.replace(folder / f"{kind}_{os.getpid()}.db")
    except OSError as error:
        aside.unlink(missing_ok=True)
        _log.warning("no numbers of this process are shared: %s", error)
        return False
    return True


class _Facts:
    """Give gauges that are read when asked for."""

    def __init__(self, gauges: list[Metric]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges


def read_coverage(log: Log, *, num_items: int) -> float | None:
    """Return the share of the catalog that the newest lists have shown; ``None`` before any."""
    shown = log.shown_items(limit=COVERAGE_IMPRESSIONS)
    return len(shown) / num_items if shown and num_items else None


def shared_folder(workspace: Path) -> Path | None:
    """Return where the replicas of a service count together; ``None`` outside a replica."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return None
    return workspace / FOLDER


def empty_folder(workspace: Path) -> None:
    """Take away the numbers of an earlier service: they count from the start of this one."""
    shutil.rmtree(workspace / FOLDER, ignore_errors=True)


def _now(
    *, release: str, num_items: int, coverage: float | None, canary: tuple[str, float] | None
) -> CollectorRegistry:
    info = GaugeMetricFamily(
        "nextray_release_info", "The release that answers; 1.", labels=["release"]
    )
    info.add_metric([release], 1)
    gauges: list[Metric] = [
        info,
        GaugeMetricFamily("nextray_catalog_items", "Items of the catalog.", value=num_items),
    ]
    text = "Share of the users that the canary answers."
    share = GaugeMetricFamily("nextray_canary_ratio", text, labels=["release"])
    if canary is not None:
        share.add_metric([canary[0]], canary[1])
    gauges.append(share)
    if coverage is not None:
        text = f"Share of the catalog in the newest {COVERAGE_IMPRESSIONS} lists."
        gauges.append(GaugeMetricFamily("nextray_coverage_ratio", text, value=coverage))
    registry = CollectorRegistry()
    registry.register(_Facts(gauges))
    return registry
