// One card an item: position, movement, title, score and its terms, and what one can do with it.

import { make } from "./dom.js";

const SLIDE_MS = 320;
const number = (value) => value.toFixed(3);

// Return "new", or by how many places an item has risen (below 0: fallen), per item id.
export function movements(before, after) {
  const places = new Map(before.map((item) => [item.item_id, item.position]));
  return new Map(
    after.map((item) => [
      item.item_id,
      places.has(item.item_id) ? places.get(item.item_id) - item.position : "new",
    ]),
  );
}

// Replace the cards of a list; those that stay slide to their new places.
export function showCards(list, items, { words, moves = new Map(), actions, isSmall = false }) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const focusedItem = focused?.closest("[data-item]")?.dataset.item;
  const old = new Map(
    [...list.children].map((card) => [card.dataset.item, card.getBoundingClientRect().top]),
  );
  const wasOpen = new Set(
    [...list.querySelectorAll("details[open]")].map((part) => part.closest("[data-item]").dataset.item),
  );
  const scores = items.map((item) => item.score);
  const lowest = Math.min(...scores);
  const span = Math.max(...scores) - lowest || 1;
  const cards = items.map((item) => {
    const share = 0.08 + (0.92 * (item.score - lowest)) / span;
    const move = moves.get(item.item_id) ?? 0;
    const card = makeCard(item, { words, move, actions, share, isSmall });
    const details = card.querySelector("details");
    if (details && wasOpen.has(item.item_id)) details.open = true;
    return card;
  });
  list.replaceChildren(...cards);
  slide(cards, old);
  if (focusedItem === undefined) return;
  // Whoever moves through the list by keyboard stays at the item, or else at the list.
  const same = cards.find((card) => card.dataset.item === focusedItem);
  const target = same?.querySelector(focused.dataset.action ? `[data-action="${focused.dataset.action}"]` : "summary");
  (target ?? list).focus({ preventScroll: true });
}

// Put the explanations that have arrived meanwhile into the cards that are there.
export function showReasons(list, items) {
  const cards = new Map([...list.children].map((card) => [card.dataset.item, card]));
  for (const item of items) {
    if (reasonOf(item)) cards.get(item.item_id)?.querySelector(".reason-room")?.replaceWith(makeReason(reasonOf(item)));
  }
}

const makeReason = (text) => make("p", { attributes: { class: "reason", dir: "auto" }, text });
// A line's height for what arrives later, so that no button moves away from under a pointer.
const makeRoom = () => make("p", { attributes: { class: "reason-room" } });

function slide(cards, old) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || old.size === 0) return;
  for (const card of cards) {
    const from = old.get(card.dataset.item);
    const by = from === undefined ? 0 : from - card.getBoundingClientRect().top;
    const start = from === undefined ? { opacity: 0, transform: "translateX(12px)" } : { transform: `translateY(${by}px)` };
    if (from === undefined || by !== 0) {
      card.animate([start, { opacity: 1, transform: "none" }], { duration: SLIDE_MS, easing: "ease-out" });
    }
  }
}

function makeCard(item, { words, move, actions, share, isSmall }) {
  const name = item.title || item.item_id;
  const doing = (action, label, style) =>
    make("button", {
      attributes: { type: "button", class: style, "data-action": action, "aria-label": words.act(label, name) },
      on: { click: () => actions[action](item) },
      text: label,
    });
  const buttons = make("div", { attributes: { class: "actions" } });
  if (actions.view) buttons.append(doing("view", words.view, "quiet"));
  if (actions.like) buttons.append(doing("like", words.like, "quiet"));
  if (actions.buy) buttons.append(doing("buy", words.buy, "buy"));
  const explanation = reasonOf(item);
  const bar = make("span", { attributes: { class: "bar", "aria-hidden": "true" } });
  bar.style.setProperty("--share", share.toFixed(3));
  return make(
    "li",
    { attributes: { class: "card", "data-item": item.item_id } },
    make("span", { attributes: { class: "place", "aria-hidden": "true" }, text: String(item.position) }),
    make(
      "div",
      { attributes: { class: "body" } },
      make(
        "p",
        { attributes: { class: "name" } },
        make("bdi", { attributes: { class: "title", dir: "auto" }, text: name }),
        moveMark(move, words),
      ),
      explanation ? makeReason(explanation) : isSmall ? null : makeRoom(),
      make("p", { attributes: { class: "meta" } },
        make("span", { attributes: { class: "chip" }, text: words.sources[item.source] ?? item.source.replaceAll("_", " ") }),
        bar,
        make("span", { attributes: { class: "score" }, text: number(item.score) })),
      isSmall ? null : makeTerms(item, words),
    ),
    buttons,
  );
}

function reasonOf(item) {
  const found = item.explanation;
  return typeof found === "string" ? found : found?.text;
}

function moveMark(move, words) {
  if (move === 0) return null;
  const [style, text, label] =
    move === "new"
      ? ["new", words.isNew, words.isNew]
      : move > 0
        ? ["up", `▲ ${move}`, words.up(move)]
        : ["down", `▼ ${-move}`, words.down(-move)];
  return make(
    "span",
    { attributes: { class: `mark ${style}` } },
    make("span", { attributes: { "aria-hidden": "true" }, text }),
    make("span", { attributes: { class: "unseen" }, text: label }),
  );
}

function makeTerms(item, words) {
  const row = (term, value) =>
    make("div", {}, make("dt", { text: term }), make("dd", { text: value }));
  const rows = Object.entries(item.terms).map(([term, value]) =>
    row(words.terms[term] ?? term.replaceAll("_", " "), number(value)));
  rows.push(row(words.score, number(item.score)), row(words.shownWith, number(item.propensity)), row("item_id", item.item_id));
  return make("details", {}, make("summary", { text: words.why }), make("dl", { attributes: { class: "terms" } }, ...rows));
}
