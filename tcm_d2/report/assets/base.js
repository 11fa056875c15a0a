// The page's state, and small tools. Everything below runs once, at the end of the body.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const LAYERS = [
  { key: "gt", name: "Ground truth", on: false },
  { key: "hit", name: "Hits", on: true },
  { key: "missed", name: "Missed", on: true },
  { key: "false", name: "False", on: true },
  { key: "ignored", name: "Difficult", on: false },
  { key: "labels", name: "Names", on: true },
];
if (DATA.images.some((image) => image.maps)) {
  LAYERS.push({ key: "maps", name: "Score map", on: false });
}
const OUTCOMES = ["hit", "false", "ignored"];
const state = { step: DATA.start, filter: -1, mapClass: 0, front: -1, layers: {} };
for (const layer of LAYERS) state.layers[layer.key] = layer.on;

const listeners = [];
let frameAsked = false;
// Redraw once per frame, however many changes came in.
function changed() {
  if (frameAsked) return;
  frameAsked = true;
  requestAnimationFrame(() => {
    frameAsked = false;
    for (const listener of listeners) listener();
  });
}

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function makeSvg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const threshold = () => state.step / 100;
const reaches = (score) => score !== null && score >= threshold() - 1e-9;
const percent = (value, digits = 1) => (value === null ? "-" : (100 * value).toFixed(digits));
const number = (value) => value.toLocaleString("en");
const cssColor = (color) => `rgb(${color.join(",")})`;
// The bright colours of the pictures, dark enough for a white page.
const inkColor = (color) => `color-mix(in srgb, ${cssColor(color)}, var(--ink-mix))`;
const swatch = (color) => make("span", { class: "swatch", style: `background:${cssColor(color)}` });
const DASHES = ["", "7 3", "2 3"];

// Figures of a class at the threshold; null where they are not defined.
function figures(one) {
  const hits = one.hits[state.step];
  const wrong = one.false[state.step];
  const precision = hits + wrong ? hits / (hits + wrong) : null;
  const recall = one.objects ? hits / one.objects : null;
  const sum = 2 * hits + wrong + (one.objects - hits);
  return { hits, wrong, missed: one.objects - hits, precision, recall, f1: sum ? (2 * hits) / sum : null };
}

function totals() {
  const sum = { hits: 0, wrong: 0, missed: 0 };
  for (const one of DATA.classes) {
    const now = figures(one);
    for (const key of Object.keys(sum)) sum[key] += now[key];
  }
  return sum;
}

function chooseFront(index) {
  state.front = state.front === index ? -1 : index;
  changed();
}

function setStep(step) {
  state.step = Math.min(100, Math.max(DATA.minStep, step));
  byId("threshold").value = state.step;
  changed();
}

function setUpHead() {
  for (const [name, value] of DATA.facts) {
    byId("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  }
  const slider = byId("threshold");
  slider.min = DATA.minStep;
  slider.value = state.step;
  slider.addEventListener("input", () => setStep(Number(slider.value)));
  const theme = byId("theme");
  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  name();
  listeners.push(drawHead);
}

function drawHead() {
  const sum = totals();
  byId("threshold-value").textContent = threshold().toFixed(2);
  byId("threshold").setAttribute("aria-valuetext", threshold().toFixed(2));
  const part = (kind, count, word) => {
    const colors = { hit: "#56c8ff", missed: "#f0e442", false: "#ff5014" };
    const key = make("i", { class: `key ${kind}`, style: `border-color:${colors[kind]}` });
    return make("span", {}, key, `${number(count)} ${word}`);
  };
  byId("counts").replaceChildren(
    make("span", { class: "all-images" }, "All images:"),
    part("hit", sum.hits, "hits"), part("missed", sum.missed, "missed"), part("false", sum.wrong, "false"),
  );
  const precision = sum.hits + sum.wrong ? sum.hits / (sum.hits + sum.wrong) : null;
  const recall = sum.hits + sum.missed ? sum.hits / (sum.hits + sum.missed) : null;
  const tile = (value, text) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, text));
  byId("summary").replaceChildren(
    tile(percent(DATA.meanAp), `mean AP, IoU > ${DATA.iou}`),
    tile(percent(precision), `precision at ${threshold().toFixed(2)}`),
    tile(percent(recall), `recall at ${threshold().toFixed(2)}`),
    tile(number(sum.hits + sum.missed), "objects"),
    tile(number(DATA.numImages), "images"),
  );
}
