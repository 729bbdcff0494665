"""What a visitor of the page sees and does, by mouse and by keyboard."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from cluster.serve.wire import unpack
from tests.browser.conftest import HOSTILE, HOSTILE_ID, Site

pytestmark = pytest.mark.browser
WITHIN_S = 20


def until(probe: Callable[[], Any]) -> Any:
    """Return the first truthy answer of a probe."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := probe()):
        assert time.monotonic() < deadline, "the page did not get there in time"
        time.sleep(0.02)
    return found


class Page:
    """Drive the page."""

    def __init__(self, driver: Chrome, site: Site) -> None:
        self.driver = driver
        self.site = site

    def open(self, url: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(url)

    def forget(self) -> None:
        """Clear what the tab and the browser keep, from a file of the site that runs nothing."""
        self.open(f"{self.site.url}/page/icon.svg")
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all matches, read at once."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def items(self, part: str = "#list") -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0] + ' > li')].map(e => e.dataset.item)"
        )
        found: list[str] = self.driver.execute_script(script, part)
        return found

    def when_shown(self, user: str) -> None:
        """Wait for a user's list; while it is under way, that of the user before is shown."""
        is_still = "return document.getAnimations().length === 0"
        until(
            lambda: (
                self.one("#user").get_attribute("value") == user
                and self.one("#list").get_attribute("aria-busy") is None
                and len(self.items()) == 10
                and self.driver.execute_script(is_still)
            )
        )

    def events_of(self, user: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.site.graph.good("GET", f"/v1/users/{user}/history")[
            "events"
        ]
        return events


@pytest.fixture
def page(chromium: Chrome, site: Site) -> Iterator[Page]:
    """Give the page of user-1, in English, and hold it to a clean console."""
    found = Page(chromium, site)
    found.forget()
    chromium.get_log("browser")
    found.open(site.link())
    found.when_shown("user-1")
    yield found
    # A refused script or style, an error that nobody caught: all of them land here.
    assert [line for line in chromium.get_log("browser") if line["level"] == "SEVERE"] == []


def test_visitor_without_a_key_is_asked_for_one(chromium: Chrome, site: Site) -> None:
    page = Page(chromium, site)
    page.forget()
    page.open(site.url)
    until(lambda: page.one("#key-dialog").is_displayed())
    page.one("#api-key").send_keys("wrong" + Keys.ENTER)
    until(lambda: "does not know" in page.one("#key-error").text)
    page.one("#api-key").send_keys(site.graph.key + Keys.ENTER)
    until(lambda: len(page.items()) == 10)
    assert not page.one("#key-dialog").is_displayed()
    # A stranger to the shop: nothing is known of them.
    assert page.one("#user").get_attribute("value").startswith("visitor-")
    assert "Nothing yet" in page.one("#sequence-note").text


def test_key_leaves_the_address_and_stays_in_the_tab(page: Page) -> None:
    assert page.driver.current_url == page.site.url + "/"
    storage = page.driver.execute_script("return JSON.stringify([localStorage, document.cookie])")
    assert page.site.graph.key not in storage
    page.driver.refresh()
    until(lambda: len(page.items()) == 10)


def test_list_and_sequence_are_those_of_the_service(page: Page) -> None:
    answer = page.site.graph.good("POST", "/v1/recommend", json={"user_id": "user-1", "k": 10})
    assert page.items() == [item["item_id"] for item in answer["items"]]
    assert page.texts("#list .title") == [item["title"] for item in answer["items"]]
    until(lambda: page.texts("#sequence .event"))
    held = page.events_of("user-1")
    expected = [e["title"] or f"“{e['query']}”" for e in held]
    assert page.texts("#sequence bdi") == expected
    assert page.texts("#sequence .type") == [e["event_type"] for e in held]
    assert page.one("#release").text == answer["release"]


def test_interests_are_those_of_the_sequence_and_follow_a_click(page: Page) -> None:
    def told(language: str) -> str:
        held = page.site.graph.good("GET", "/v1/users/user-1", params={"language": language})
        text: str = held["interests"]["text"]
        return text

    # Words of Chinese titles wait for a dictionary.
    until(lambda: page.site.graph.good("GET", "/v1/users/user-1")["interests"] is not None)
    page.open(page.site.link())
    until(lambda: page.texts("#interests-text") == [told("en")])
    before = told("en")
    page.one("#list > li:first-child [data-action=buy]").click()
    until(lambda: told("en") != before and page.texts("#interests-text") == [told("en")])
    page.one("#language").click()
    until(lambda: page.texts("#interests-text") == [told("zh")])
    assert page.texts("#interests-text")[0].startswith("您的")
    page.one("#new-user").click()
    until(lambda: not page.one("#interests").is_displayed())


def test_list_is_there_before_its_explanations_and_is_logged_once(page: Page) -> None:
    rankers = page.site.graph.gateway.state.ranker.replicas
    kept = list(rankers)
    gate = asyncio.Event()
    rankers[:] = [_Holding(kept[0], gate)]
    before = len(page.site.graph.gateway.state.log.read_impressions(limit=1000))
    tops = "return [...document.querySelectorAll('#list > li')].map(e => e.offsetTop)"
    try:
        page.one("#user").clear()
        page.one("#user").send_keys("user-2" + Keys.ENTER)
        page.when_shown("user-2")
        shown = page.items()
        assert page.texts("#list .reason") == []
        there = page.driver.execute_script(tops)
    finally:
        page.site.graph.loop.call_soon_threadsafe(gate.set)
        rankers[:] = kept
    until(lambda: len(page.texts("#list .reason")) == 10)
    assert page.items() == shown
    # There was room for three lines: no button in view moves away from under a pointer.
    assert page.driver.execute_script(tops)[:3] == there[:3]
    assert len(page.site.graph.gateway.state.log.read_impressions(limit=1000)) == before + 1


class _Holding:
    """Be a ranker that keeps explanations back."""

    def __init__(self, ranker: Any, gate: asyncio.Event) -> None:
        self._ranker, self._gate = ranker, gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranker, name)

    async def recommend(self, packed: bytes, *others: Any) -> Any:
        if unpack(packed).explain:
            await self._gate.wait()
        return await self._ranker.recommend(packed, *others)


def test_contract_is_readable_and_loads_nothing_from_elsewhere(page: Page) -> None:
    page.open(f"{page.site.url}/docs")
    until(lambda: page.texts("#routes details"))
    contract = page.site.graph.good("GET", "/openapi.json")
    count = sum(len(operations) for operations in contract["paths"].values())
    assert len(page.texts("#routes details")) == count
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert all(url.startswith(page.site.url) for url in page.driver.execute_script(script))
    page.one("#routes details summary").click()
    assert page.one("#routes details dl").is_displayed()
    assert json.loads(page.texts("#routes details pre")[0])


def test_purchase_is_stored_and_changes_the_list(page: Page) -> None:
    page.one("#user").clear()
    page.one("#user").send_keys("buyer" + Keys.ENTER)
    page.when_shown("buyer")
    before = page.items()
    page.one("#list > li:nth-child(3) [data-action=buy]").click()
    until(lambda: page.items() != before)
    [event] = page.events_of("buyer")
    assert (event["event_type"], event["item_id"]) == ("purchase", before[2])
    until(lambda: page.texts("#sequence .event"))
    assert page.texts("#sequence .type") == ["purchase"]
    change = page.one("#change").text
    assert change.split(" ")[1:2] == ["ms:"]
    assert page.one("#news").get_attribute("textContent") == change
    # What it says of the change is what changed.
    after = page.items()
    fresh = len(set(after) - set(before))
    moved = sum(
        1 for place, item in enumerate(after) if item in before and before.index(item) != place
    )
    assert change.endswith(f"{fresh} new, {moved} moved")
    assert len(page.texts("#list .mark")) == fresh + moved


def test_search_shows_what_it_found_and_becomes_part_of_the_sequence(page: Page) -> None:
    page.one("#new-user").click()
    until(lambda: page.one("#user").get_attribute("value").startswith("visitor-"))
    user = page.one("#user").get_attribute("value")
    until(lambda: len(page.items()) == 10)
    page.one("#query").send_keys("green lamp" + Keys.ENTER)
    until(lambda: page.texts("#sequence .query"))
    assert page.texts("#found-list .title")[0] == "green lamp"
    assert page.texts("#sequence .query") == ["“green lamp”"]
    [event] = page.events_of(user)
    assert (event["event_type"], event["query"]) == ("search", "green lamp")
    page.one("#close-found").click()
    assert not page.one("#found").is_displayed()


def test_penalty_slider_asks_with_its_weight(page: Page) -> None:
    before = page.items()
    assert "as released" in page.one("#penalty-value").text
    slider = page.one("#penalty")
    slider.send_keys(*[Keys.END])
    until(lambda: page.items() != before)
    answer = page.site.graph.good(
        "POST", "/v1/recommend", json={"user_id": "user-1", "k": 10, "penalty_weight": 2}
    )
    until(lambda: page.items() == [item["item_id"] for item in answer["items"]])
    assert page.one("#penalty-value").text == "2.00"
    page.one("#reset").click()
    until(lambda: page.items() == before)
    assert not page.one("#reset").is_enabled()


def test_similar_items_open_beside_the_list(page: Page) -> None:
    first = page.items()[0]
    page.one("#list > li:first-child [data-action=like]").click()
    until(lambda: page.items("#similar-list"))
    assert len(page.items("#similar-list")) == 5
    assert first not in page.items("#similar-list")
    focused = page.driver.switch_to.active_element.get_attribute("id")
    assert focused == "similar-title"


def test_hostile_titles_and_ids_stay_text(page: Page) -> None:
    page.one("#query").send_keys(HOSTILE + Keys.ENTER)
    until(lambda: page.texts("#found-list .title"))
    page.site.graph.good(
        "POST",
        "/v1/events",
        json=[
            {"user_id": HOSTILE, "item_id": "item/0", "event_type": HOSTILE[:64]},
            {"user_id": HOSTILE, "item_id": HOSTILE_ID},
        ],
    )
    page.one("#user").clear()
    page.one("#user").send_keys(HOSTILE + Keys.ENTER)
    until(lambda: len(page.texts("#sequence .event")) == 2)
    assert HOSTILE in page.texts("#sequence bdi")
    assert page.driver.execute_script("return window.hacked") is None
    assert page.driver.execute_script("return document.querySelectorAll('main img').length") == 0
    # Its buttons work all the same: the id travels as one path segment.
    page.one("#query").clear()
    page.one("#query").send_keys("red boots" + Keys.ENTER)
    until(lambda: any("red boots" in text for text in page.texts("#found-title")))


def test_chinese_page_is_chinese_throughout(page: Page) -> None:
    page.one("#language").click()
    assert page.one("html").get_attribute("lang") == "zh"
    english = [text for text in page.texts("[data-word]") if text.isascii() and text.strip()]
    assert english == []
    assert page.one("#language").text == "English"
    page.driver.refresh()
    until(lambda: len(page.items()) == 10)
    assert page.one("html").get_attribute("lang") == "zh"


def test_both_languages_have_the_same_words(page: Page) -> None:
    script = """
        const [done] = [arguments[arguments.length - 1]];
        import("/page/words.js").then(({ WORDS }) => {
          const keys = (part) => Object.keys(part).sort();
          const { en, zh } = WORDS;
          done(JSON.stringify([keys(en), keys(zh), keys(en.event), keys(zh.event),
            keys(en.stage), keys(zh.stage)]));
        });
    """
    found = json.loads(page.driver.execute_async_script(script))
    for english, chinese in zip(found[::2], found[1::2], strict=True):
        assert english == chinese


def test_whole_page_works_by_keyboard(page: Page) -> None:
    page.driver.execute_script("document.activeElement.blur()")
    body = page.one("body")
    body.send_keys(Keys.TAB)
    skip = page.driver.switch_to.active_element
    assert skip.get_attribute("class") == "skip"
    skip.send_keys(Keys.ENTER)
    page.driver.switch_to.active_element.send_keys(Keys.TAB)
    reached = page.driver.switch_to.active_element
    assert reached.find_element(By.XPATH, "ancestor::ol").get_attribute("id") == "list"
    # Every control can be reached, and says what it is.
    script = """
        return [...document.querySelectorAll('main button, main input, header button, summary')]
          .filter(e => e.offsetParent !== null)
          .filter(e => e.tabIndex < 0 || !(e.textContent.trim() || e.getAttribute('aria-label')
              || e.labels?.[0]?.textContent.trim()))
          .map(e => e.outerHTML);
    """
    assert page.driver.execute_script(script) == []


def test_focus_stays_at_the_item_that_was_acted_on(page: Page) -> None:
    button = page.one("#list > li:nth-child(2) [data-action=view]")
    item = page.items()[1]
    button.send_keys(Keys.ENTER)
    until(lambda: "ms" in page.one("#change").text)
    focused = page.driver.execute_script(
        "const e = document.activeElement; return [e.id, e.closest('li')?.dataset.item ?? null]"
    )
    assert focused in (["", item], ["list", None])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page: Page, theme: str) -> None:
    """Hold every text to 4.5:1, which WCAG 2.2 AA asks of normal text."""
    while page.driver.execute_script("return document.documentElement.dataset.theme") != theme:
        page.one("#theme").click()
    page.one("#list > li:first-child summary").click()
    script = """
        const parse = (value) => value.match(/[\\d.]+/g).map(Number);
        const luminance = (rgb) => rgb.slice(0, 3)
          .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => {
          for (; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.99) return colour;
          }
          return [255, 255, 255];
        };
        const failing = [];
        for (const e of document.querySelectorAll('header *, main *, footer *')) {
          const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
          if (!own || e.offsetParent === null || e.closest('.unseen') || e.disabled) continue;
          const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < 4.5) failing.push([e.className, e.textContent.slice(0, 30), ratio]);
        }
        return failing;
    """
    time.sleep(0.4)  # transitions of colours end
    assert page.driver.execute_script(script) == []


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        script = "return [document.documentElement.scrollWidth, window.innerWidth]"
        needed, there = page.driver.execute_script(script)
        assert needed <= there
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [390, 780, 1280, 1920])
def test_panels_stand_close_and_hold_what_is_in_them(page: Page, width: int) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        outside, gaps = page.driver.execute_script("""
            const boxes = [...document.querySelectorAll('main .panel')]
                .filter(e => e.offsetHeight).map(e => [e, e.getBoundingClientRect()]);
            const outside = boxes.flatMap(([panel, box]) =>
                [...panel.querySelectorAll('button, input, output')]
                    .filter(e => e.offsetWidth && e.getBoundingClientRect().right > box.right)
                    .map(e => e.id || e.textContent));
            // Above each panel of a column there is another one, or the top.
            const gaps = boxes.map(([, box]) => {
                const above = boxes.filter(([, other]) =>
                    other.bottom <= box.top && other.left < box.right && other.right > box.left);
                return above.length
                    ? box.top - Math.max(...above.map(([, other]) => other.bottom)) : 0;
            });
            return [outside, gaps];
        """)
        assert outside == []
        assert max(gaps) < 40, gaps
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
