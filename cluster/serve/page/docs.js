// The HTTP contract for readers, out of /openapi.json: no code of others, nothing loaded from elsewhere.

import { byId, make } from "./dom.js";

const JSON_BODY = "application/json";
const DEPTH = 4; // of nested objects in an example

const contract = await (await fetch("/openapi.json")).json();
const schemas = contract.components.schemas;

const resolve = (schema) => (schema?.$ref ? schemas[schema.$ref.split("/").at(-1)] : (schema ?? {}));

// Say what a value may be, in a few words: "string or null, at most 256 long".
function nameOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(nameOf))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const type = schema.type === "array" ? `list of ${nameOf(schema.items ?? {})}` : (schema.type ?? "any");
  const [low, high] = [schema.minimum ?? schema.minLength ?? schema.minItems, schema.maximum ?? schema.maxLength ?? schema.maxItems];
  if (low === undefined && high === undefined) return type;
  return `${type}, ${low ?? "…"} to ${high ?? "…"}`;
}

// Return a value that a schema allows, its own example first.
function exampleOf(schema, depth = 0) {
  const found = resolve(schema);
  if (found.examples?.length) return found.examples[0];
  if (found.default !== undefined) return found.default;
  if (found.anyOf) return exampleOf(found.anyOf[0], depth);
  if (found.enum) return found.enum[0];
  if (found.type === "array") return depth < DEPTH ? [exampleOf(found.items, depth + 1)] : [];
  if (found.type === "object" && depth < DEPTH) {
    return Object.fromEntries(
      Object.entries(found.properties ?? {}).map(([name, part]) => [name, exampleOf(part, depth + 1)]),
    );
  }
  return { string: "string", integer: 1, number: 0.5, boolean: true, object: {} }[found.type] ?? null;
}

function makeFields(title, fields) {
  if (fields.length === 0) return [];
  const rows = fields.flatMap(([name, schema, text]) => [
    make("dt", { text: name }),
    make("dd", { text: [nameOf(schema), text].filter(Boolean).join(" – ") }),
  ]);
  return [make("h3", { text: title }), make("dl", {}, ...rows)];
}

function makeBody(title, content) {
  const schema = content?.[JSON_BODY]?.schema;
  if (schema === undefined) return [];
  const options = resolve(schema).anyOf ?? [schema];
  return [
    ...options.flatMap((option) => makeFields(`${title}: ${nameOf(option)}`, fieldsOf(option))),
    make("pre", { attributes: { tabindex: "0" }, text: JSON.stringify(exampleOf(schema), null, 2) }),
  ];
}

function fieldsOf(schema) {
  const found = resolve(schema);
  return Object.entries(found.properties ?? {}).map(([name, part]) => {
    const isNeeded = (found.required ?? []).includes(name);
    return [isNeeded ? `${name} *` : name, part, part.description];
  });
}

function makeRoute(method, path, operation) {
  const parameters = (operation.parameters ?? []).map((found) =>
    [`${found.name}${found.required ? " *" : ""}`, found.schema, `in the ${found.in}`]);
  const answers = Object.entries(operation.responses).filter(([status]) => status < "300");
  return make(
    "details",
    { attributes: { id: operation.operationId } },
    make("summary", {}, make("span", { attributes: { class: "method" }, text: method.toUpperCase() }), make("code", { text: path })),
    ...(operation.description ?? operation.summary ?? "").split("\n\n").map((text) => make("p", { text })),
    operation.security?.length === 0 && make("p", { attributes: { class: "hint" }, text: "Needs no key." }),
    ...makeFields("Parameters", parameters),
    ...makeBody("Body", operation.requestBody?.content),
    ...answers.flatMap(([status, answer]) => makeBody(`Answer ${status}`, answer.content)),
  );
}

const parts = new Map();
for (const [path, operations] of Object.entries(contract.paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    const tag = operation.tags?.[0] ?? "other";
    parts.set(tag, [...(parts.get(tag) ?? []), makeRoute(method, path, operation)]);
  }
}
byId("about").textContent = `${contract.info.description} Version ${contract.info.version}.`;
byId("tags").append(...[...parts.keys()].map((tag) => make("a", { attributes: { href: `#part-${tag}` }, text: tag })));
byId("routes").append(
  ...[...parts].map(([tag, routes]) =>
    make("section", { attributes: { id: `part-${tag}` } }, make("h2", { text: tag }), ...routes)),
);
byId("routes").removeAttribute("aria-busy");
