// The page: who is shown, what they did, what comes next, and what changes it.

import * as api from "./api.js";
import { movements, showCards, showReasons } from "./cards.js";
import { byId, make } from "./dom.js";
import { addSpeed, showSpeed } from "./speed.js";
import { WORDS } from "./words.js";

const K = 10;
const TYPING_MS = 120; // a slider that is being drawn asks ten times a second at most
const THEMES = ["auto", "light", "dark"];

const state = {
  language: localStorage.getItem("nextray-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"),
  theme: localStorage.getItem("nextray-theme") ?? "auto",
  userId: "",
  items: [], // of the list on the page
  moves: new Map(),
  events: [], // newest first
  note: null, // why the sequence is not all that is held
  interests: null, // what it is about, in words
  impressionId: null,
  tuned: {}, // fields of the request that were touched
  fields: new Set(), // fields that this service takes
  paths: {},
  speed: null, // how long the last answer took
  change: null, // (words) => text
  degraded: [],
  problem: null,
  found: null,
  similar: null,
};
let asked = 0;
let running = null;
let timer = 0;

const words = () => WORDS[state.language];

// ---- asking

async function refresh({ since = performance.now(), eventMs = null } = {}) {
  const turn = ++asked;
  running?.abort();
  running = new AbortController();
  const body = { user_id: state.userId, k: K, ...state.tuned };
  if (state.fields.has("language")) body.language = state.language;
  byId("list").setAttribute("aria-busy", "true");
  let answer;
  try {
    answer = await api.recommend(body, running.signal);
  } finally {
    if (turn === asked) byId("list").removeAttribute("aria-busy");
  }
  if (turn !== asked) return;
  const elapsedMs = performance.now() - since;
  const isFirst = state.items.length === 0;
  state.moves = isFirst ? new Map() : movements(state.items, answer.items);
  state.items = answer.items;
  state.impressionId = answer.impression_id;
  state.degraded = answer.degraded;
  state.speed = { elapsedMs, isFeedback: eventMs !== null,
    timings: eventMs === null ? answer.timings_ms : { store: eventMs, ...answer.timings_ms } };
  const fresh = [...state.moves.values()].filter((move) => move === "new").length;
  const moved = [...state.moves.values()].filter((move) => move !== "new" && move !== 0).length;
  const ms = elapsedMs.toFixed(elapsedMs < 100 ? 1 : 0);
  const count = answer.items.length;
  state.change = (w) => (isFirst ? w.loaded(count) : fresh + moved ? w.moved(ms, moved, fresh) : w.same(ms));
  byId("release").textContent = answer.release;
  byId("release").title = answer.release;
  addSpeed(elapsedMs);
  showSpeed(state.speed, words());
  showList();
  byId("news").textContent = state.change(words());
  if (state.fields.has("is_shown")) explain(turn, body, running.signal);
}

// Explanations cost many times what the list costs, so they come when it is already there. Asked
// for by a list that nobody sees: it must not count as shown a second time.
async function explain(turn, body, signal) {
  let answer;
  try {
    answer = await api.recommend({ ...body, explain: true, is_shown: false }, signal);
  } catch (error) {
    if (error.name === "AbortError" || error instanceof api.ProblemError) return; // the list stands without them
    throw error;
  }
  if (turn !== asked) return;
  const found = new Map(answer.items.map((item) => [item.item_id, item.explanation]));
  for (const item of state.items) item.explanation = found.get(item.item_id) ?? null;
  showReasons(byId("list"), state.items);
}

async function act(eventType, fields) {
  const since = performance.now();
  const event = { user_id: state.userId, event_type: eventType, ...fields };
  if (state.impressionId && fields.item_id && state.items.some((i) => i.item_id === fields.item_id)) {
    event.impression_id = state.impressionId;
  }
  const sent = await api.sendEvent(event);
  const eventMs = performance.now() - since;
  state.events.unshift({
    event_type: eventType,
    item_id: sent.item_id ?? null,
    title: titleOf(sent.item_id),
    query: sent.query ?? null,
    timestamp_ms: sent.timestamp,
    isNew: true,
  });
  await refresh({ since, eventMs });
  showSequence();
  readInterests(state.userId);
}

function titleOf(itemId) {
  const shown = [...state.items, ...(state.found?.items ?? []), ...(state.similar?.items ?? [])];
  return shown.find((item) => item.item_id === itemId)?.title ?? itemId;
}

async function showUser(userId) {
  Object.assign(state, { userId, items: [], events: [], note: null, interests: null, similar: null, found: null });
  byId("user").value = userId;
  showSimilar();
  showFound();
  showInterests();
  await Promise.all([refresh(), readSequence(userId)]);
  await readInterests(userId);
}

// What the sequence is about: the list does not wait for it, and stands without it.
async function readInterests(userId) {
  let found = null;
  try {
    found = (await api.user(userId, state.language)).interests;
  } catch (error) {
    if (!(error instanceof api.ProblemError)) throw error;
  }
  if (state.userId !== userId) return;
  state.interests = found !== null && found.interests.length ? found : null;
  showInterests();
}

async function readSequence(userId) {
  let events = [];
  let note = null;
  try {
    events = (await api.history(userId)).events;
  } catch (error) {
    if (![403, 503, 504].includes(error.status)) throw error;
    note = error.status === 403 ? "sequenceClosed" : "sequenceBroken";
  }
  if (state.userId !== userId) return;
  Object.assign(state, { events: [...state.events, ...events], note });
  showSequence();
}

// Run something that asks the service, and say what went wrong.
async function attempt(work) {
  try {
    state.problem = null;
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof api.ProblemError)) throw error;
    if (error.status === 401) {
      askForKey(true);
      return;
    }
    state.problem = error;
  } finally {
    showProblem();
  }
}

// ---- showing

function showList() {
  const actions = {
    view: (item) => attempt(() => act("view", { item_id: item.item_id })),
    buy: (item) => attempt(() => act("purchase", { item_id: item.item_id })),
    like: (item) => attempt(() => openSimilar(item)),
  };
  showCards(byId("list"), state.items, { words: words(), moves: state.moves, actions });
  byId("change").textContent = state.change?.(words()) ?? "";
  byId("degraded").hidden = state.degraded.length === 0;
  byId("degraded").textContent = words().degraded(state.degraded.join(", "));
}

function showSequence() {
  const list = byId("sequence");
  const when = new Intl.DateTimeFormat(state.language, { dateStyle: "medium", timeStyle: "short" });
  list.replaceChildren(
    ...state.events.slice(0, 30).map((event) => {
      const isQuery = event.query !== null && event.item_id === null;
      return make(
        "li",
        { attributes: { class: event.isNew ? "event is-new" : "event" } },
        make("span", { attributes: { class: `type ${cssName(event.event_type)}` }, text: words().event[event.event_type] ?? event.event_type }),
        make("bdi", { attributes: { class: isQuery ? "query" : "title", dir: "auto" }, text: isQuery ? `“${event.query}”` : event.title || event.item_id }),
        make("time", { attributes: { datetime: new Date(event.timestamp_ms).toISOString() }, text: when.format(event.timestamp_ms) }),
      );
    }),
  );
  for (const event of state.events) event.isNew = false;
  byId("sequence-count").textContent = state.events.length ? String(state.events.length) : "";
  const note = state.note ?? (state.events.length ? null : "sequenceEmpty");
  byId("sequence-note").hidden = note === null;
  byId("sequence-note").textContent = note === null ? "" : words()[note];
}

function showInterests() {
  byId("interests").hidden = state.interests === null;
  byId("interests-text").firstElementChild.textContent = state.interests?.text ?? "";
}

const cssName = (type) => (["view", "purchase", "search", "cart"].includes(type) ? type : "other");

const itemActions = () => ({
  view: (item) => attempt(() => act("view", { item_id: item.item_id })),
  buy: (item) => attempt(() => act("purchase", { item_id: item.item_id })),
});

async function openSimilar(item) {
  const answer = await api.similar(item.item_id);
  state.similar = { to: item.title || item.item_id, items: answer.items };
  showSimilar();
  byId("similar").scrollIntoView({ block: "nearest", behavior: "smooth" });
  byId("similar-title").focus({ preventScroll: true });
}

function showSimilar() {
  byId("similar").hidden = state.similar === null;
  if (state.similar === null) return;
  byId("similar-to").textContent = words().similarTo(state.similar.to);
  showCards(byId("similar-list"), state.similar.items, { words: words(), actions: itemActions(), isSmall: true });
}

function showFound() {
  byId("found").hidden = state.found === null;
  if (state.found === null) return;
  byId("found-title").textContent = words().found(state.found.query);
  showCards(byId("found-list"), state.found.items, { words: words(), actions: itemActions(), isSmall: true });
}

function showProblem() {
  const { problem } = state;
  const alert = byId("alert");
  alert.hidden = problem === null;
  if (problem === null) return;
  const parts = [problem.status === 0 ? words().unreachable : problem.message];
  if (problem.retryAfterS) parts.push(words().later(problem.retryAfterS));
  alert.textContent = parts.join(" ");
}

function showSettings() {
  for (const [id, field] of [["penalty", "penalty_weight"], ["diversity", "diversity"]]) {
    const touched = field in state.tuned;
    byId(`${id}-value`).textContent = touched ? Number(byId(id).value).toFixed(2) : words().ofRelease;
    byId(id).setAttribute("aria-valuetext", byId(`${id}-value`).textContent);
  }
  byId("unseen").checked = state.tuned.exclude_seen === true;
  byId("reset").disabled = Object.keys(state.tuned).length === 0;
}

function showWords() {
  document.documentElement.lang = state.language;
  document.title = `nextray – ${words().next}`;
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = words()[element.dataset.word];
  }
  byId("query").placeholder = words().searchHint;
  const other = state.language === "en" ? "zh" : "en";
  byId("language").textContent = other === "zh" ? "中文" : "English";
  byId("language").lang = other;
  const name = { auto: words().themeAuto, light: words().themeLight, dark: words().themeDark }[state.theme];
  byId("theme").textContent = { auto: "◐", light: "☀", dark: "☾" }[state.theme] + " " + name;
  byId("theme").setAttribute("aria-label", words().theme(name));
  document.documentElement.dataset.theme = state.theme;
  if (state.speed) showSpeed(state.speed, words());
}

function showEverything() {
  showWords();
  showSettings();
  showSequence();
  showList();
  showSimilar();
  showFound();
  showProblem();
}

function askForKey(isWrong) {
  byId("key-error").textContent = isWrong && api.getKey() ? words().keyWrong : "";
  const dialog = byId("key-dialog");
  if (!dialog.open) dialog.showModal();
}

// ---- wiring

async function enter() {
  const [contract, release] = await Promise.all([api.getContract(), api.getRelease()]);
  state.paths = contract.paths;
  state.fields = new Set(Object.keys(contract.components.schemas.RecommendBody.properties));
  byId("diversity-box").hidden = !state.fields.has("diversity");
  byId("release").textContent = release.release;
  byId("num-items").textContent = release.items.toLocaleString(state.language);
  if (byId("key-dialog").open) byId("key-dialog").close();
  await showUser(state.userId || newVisitor());
}

const newVisitor = () => `visitor-${crypto.randomUUID().slice(0, 8)}`;

function tune(field, value) {
  state.tuned = { ...state.tuned, [field]: value };
  showSettings();
  clearTimeout(timer);
  timer = setTimeout(() => attempt(() => refresh()), TYPING_MS);
}

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("key")) api.setKey(given.get("key"));
  if (given.has("user")) state.userId = given.get("user");
  // A key must not stay in the address bar, in the history, or in a link that is passed on.
  if (given.has("key")) history.replaceState(null, "", location.pathname);
}

function listen(id, name, listener) {
  byId(id).addEventListener(name, (event) => {
    if (name === "submit") event.preventDefault();
    listener(event);
  });
}

listen("user-form", "submit", () => attempt(() => showUser(byId("user").value.trim())));
listen("new-user", "click", () => attempt(() => showUser(newVisitor())));
listen("search-form", "submit", () =>
  attempt(async () => {
    const query = byId("query").value.trim();
    if ("/v1/search" in state.paths) {
      const answer = await api.search({ query, user_id: state.userId, k: 5 });
      state.found = { query, items: answer.items };
      showFound();
    }
    await act("search", { query });
  }));
listen("penalty", "input", () => tune("penalty_weight", Number(byId("penalty").value)));
listen("diversity", "input", () => tune("diversity", Number(byId("diversity").value)));
listen("unseen", "change", () => tune("exclude_seen", byId("unseen").checked));
listen("reset", "click", () => {
  state.tuned = {};
  byId("penalty").value = byId("penalty").defaultValue;
  byId("diversity").value = byId("diversity").defaultValue;
  showSettings();
  attempt(() => refresh());
});
listen("close-similar", "click", () => {
  state.similar = null;
  showSimilar();
  byId("list").focus();
});
listen("close-found", "click", () => {
  state.found = null;
  showFound();
  byId("query").focus();
});
listen("language", "click", () => {
  state.language = state.language === "en" ? "zh" : "en";
  localStorage.setItem("nextray-language", state.language);
  showEverything();
  if (state.userId) readInterests(state.userId);
  if (state.fields.has("language") && state.userId) attempt(() => refresh());
});
listen("theme", "click", () => {
  state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
  localStorage.setItem("nextray-theme", state.theme);
  showWords();
});
listen("change-key", "click", () => askForKey(false));
listen("key-form", "submit", () => {
  api.setKey(byId("api-key").value.trim());
  byId("api-key").value = "";
  attempt(enter);
});

readFragment();
showWords();
showSettings();
if (api.getKey()) attempt(enter);
else askForKey(false);
