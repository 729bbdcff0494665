"""Ask one side of a benchmark over HTTP from a number of connections at once, and time it."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import psutil

from tests.processes import descendants, wait_until

NUM_USERS = 200
K = 10
READY_WITHIN_S = 600


class Load:
    """Ask one side from a number of connections at once."""

    def __init__(self, port: int, key: str, pid: int | None) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.key = key
        self.pid = pid

    def wait(self) -> None:
        """Return when the side answers."""
        url = f"http://{self.host}:{self.port}"
        wait_until(lambda: answers(f"{url}/readyz"), within_s=READY_WITHIN_S, what=url)

    def cpu_s(self) -> float:
        """Return the CPU-seconds that all processes of the side have used."""
        assert self.pid is not None
        return sum(cpu_seconds(pid) for pid in [self.pid, *descendants(self.pid)])

    def fill(self, events: dict[str, list[dict[str, Any]]]) -> None:
        with httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=60) as client:
            client.headers["Authorization"] = f"Bearer {self.key}"
            for sent in events.values():
                answer = client.post("/v1/events", json=sent).raise_for_status().json()
                assert answer["accepted"] == len(sent)

    def ask(self, user: str) -> list[str]:
        url = f"http://{self.host}:{self.port}/v1/recommend"
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.post(url, json={"user_id": user, "k": K}, headers=headers, timeout=60)
        return [item["item_id"] for item in answer.raise_for_status().json()["items"]]

    def measure(self, concurrency: int, seconds: float) -> dict[str, Any]:
        """Return rate, latencies in ms, each stage's milliseconds, and how many were not answered.

        ``closed`` counts connections that ended before an answer; a client asks again then.
        """
        return asyncio.run(self._measure(concurrency, seconds))

    async def _measure(self, concurrency: int, seconds: float) -> dict[str, Any]:
        times: list[float] = []
        stages: dict[str, list[float]] = {}
        counts = {"refused": 0, "degraded": 0, "closed": 0}
        end = time.perf_counter() + seconds

        async def visitor(number: int) -> None:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            draw = random.Random(number)
            while time.perf_counter() < end:
                user = f"bench-{draw.randrange(NUM_USERS)}"
                body = json.dumps({"user_id": user, "k": K}).encode()
                start = time.perf_counter()
                asked = (
                    f"POST /v1/recommend HTTP/1.1\r\nHost: {self.host}\r\n"
                    f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                try:
                    writer.write(asked)
                    status, answer = await read_answer(reader)
                except (asyncio.IncompleteReadError, ConnectionError):
                    # A proxy that takes up new replicas closes what it holds: ask again.
                    counts["closed"] += 1
                    writer.close()
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                    continue
                if status != 200:
                    counts["refused"] += 1
                    continue
                times.append(1000 * (time.perf_counter() - start))
                parsed = json.loads(answer)
                counts["degraded"] += bool(parsed["degraded"])
                for stage, value in parsed["timings_ms"].items():
                    stages.setdefault(stage, []).append(value)
            writer.close()

        begin, used_s = time.perf_counter(), self.cpu_s()
        await asyncio.gather(*(visitor(number) for number in range(concurrency)))
        elapsed = time.perf_counter() - begin
        cpu_ms = 1000 * (self.cpu_s() - used_s) / max(1, len(times))
        rate = len(times) / elapsed
        return {"rate": rate, "cpu_ms": cpu_ms, "times": times, "stages": stages, **counts}


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of an HTTP/1.1 answer, by length or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" not in head:
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        return status, await reader.readexactly(length)
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return status, body


def cpu_seconds(pid: int) -> float:
    """Return what a process has used of the cores so far; 0 where it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=35).is_success
    except httpx.HTTPError:
        return False


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
