"""The page in a real browser: headless Chromium before the real graph in this process."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from cluster.runtime import free_port
from tests.cluster.graph import Graph, running_graph
from tests.releases import make_release

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
HOSTILE_ID = "item/<b>7</b>?#%2F"


@dataclass(frozen=True, kw_only=True)
class Site:
    """Hold where the page is served, and from what."""

    url: str
    graph: Graph

    def link(self, *, user: str = "user-1") -> str:
        return f"{self.url}/#key={self.graph.key}&user={user}"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve a shop whose first title is markup and whose eighth id is no path segment."""
    workspace = tmp_path_factory.mktemp("page")
    release = make_release(
        workspace,
        titles={"red dress": HOSTILE, "红色 连衣裙": "红色 连衣裙"},
        names={"item/7": HOSTILE_ID},
    )
    port = free_port()
    with running_graph(workspace, release) as graph:
        config = uvicorn.Config(graph.app, host="127.0.0.1", port=port, log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.run_coroutine_threadsafe(server.serve(), graph.loop)
        try:
            yield Site(url=f"http://127.0.0.1:{port}", graph=graph)
        finally:
            server.should_exit = True
            serving.result(timeout=30)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start one browser for all tests."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    profile: Path = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # containers run as root and have no user namespaces
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--lang=en-US",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
