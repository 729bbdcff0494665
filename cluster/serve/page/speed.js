// How long answers took: the latest one by stage, and the last ones as a line.

import { byId, make, makeSvg } from "./dom.js";

const KEPT = 60;
const STAGES = ["store", "history", "encode", "rank", "log"];
const totals = [];

export function addSpeed(elapsedMs) {
  totals.push(elapsedMs);
  if (totals.length > KEPT) totals.shift();
}

export function showSpeed({ elapsedMs, timings, isFeedback }, words) {
  byId("speed").textContent = elapsedMs.toFixed(elapsedMs < 100 ? 1 : 0);
  byId("speed-what").textContent = isFeedback ? words.speedFeedback : words.speedList;
  const parts = STAGES.filter((stage) => stage in timings).map((stage) => [stage, timings[stage]]);
  const rest = elapsedMs - parts.reduce((sum, [, ms]) => sum + ms, 0);
  parts.push(["other", Math.max(0, rest)]);
  byId("stages").replaceChildren(
    ...parts.map(([stage, ms]) => {
      const part = make("span", { attributes: { class: `stage ${stage}` } });
      part.style.setProperty("flex-grow", String(ms));
      return part;
    }),
  );
  byId("stage-list").replaceChildren(
    ...parts.map(([stage, ms]) =>
      make("li", {},
        make("i", { attributes: { class: `stage ${stage}`, "aria-hidden": "true" } }),
        make("span", { text: words.stage[stage] }),
        make("b", { text: `${ms.toFixed(1)} ms` }))),
  );
  drawLine(words);
}

function drawLine(words) {
  const svg = byId("spark");
  const highest = Math.max(...totals);
  const step = 200 / Math.max(1, totals.length - 1);
  const points = totals.map((ms, place) => `${(place * step).toFixed(1)},${(37 - (34 * ms) / highest).toFixed(1)}`);
  if (points.length === 1) points.push(`200,${points[0].split(",")[1]}`);
  svg.replaceChildren(makeSvg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
  const median = [...totals].sort((a, b) => a - b)[totals.length >> 1].toFixed(1);
  const label = words.sparkLabel(totals.length, median);
  svg.setAttribute("aria-label", label);
  byId("spark-note").textContent = label;
}
