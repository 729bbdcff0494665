// The HTTP contract as functions. The key lives in this tab's session storage, nowhere else.

const KEY = "nextray-key";

export class ProblemError extends Error {
  constructor(status, detail, retryAfterS) {
    super(detail);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

export const getKey = () => sessionStorage.getItem(KEY);
export const setKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

async function ask(method, path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(0, "", null);
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const detail = typeof found.detail === "string" ? found.detail : answer.statusText;
    throw new ProblemError(answer.status, detail, answer.headers.get("Retry-After"));
  }
  return found;
}

const inPath = encodeURIComponent;

export const getContract = () => ask("GET", "/openapi.json");
export const getRelease = () => ask("GET", "/v1/release");
export const recommend = (body, signal) => ask("POST", "/v1/recommend", { body, signal });
export const search = (body) => ask("POST", "/v1/search", { body });
export const similar = (itemId) => ask("GET", `/v1/items/${inPath(itemId)}/similar?k=5`);
export const history = (userId) => ask("GET", `/v1/users/${inPath(userId)}/history?limit=30`);

export const user = (userId, language) => ask("GET", `/v1/users/${inPath(userId)}?language=${language}`);

// Without a sent event_id, a repeat after a lost answer would count twice.
export async function sendEvent(event) {
  const named = { ...event, event_id: crypto.randomUUID(), timestamp: Date.now() };
  const answer = await ask("POST", "/v1/events", { body: { events: [named] } });
  if (answer.rejected.length) throw new ProblemError(422, answer.rejected[0].reason, null);
  return named;
}
