"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MAX_ZOOM = 40;
const STEP = 1.25;

let info = { classes: [], lowest: 0.05, threshold: 0.3, max_bytes: Infinity };
let result = null; // what /detect answered
let hidden = new Set(); // ids of classes that are not shown
let view = { scale: 1, x: 0, y: 0 };

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// --- sending ---------------------------------------------------------------------------------

let sending = 0;

async function send(file) {
  const turn = ++sending;
  if (file.size > info.max_bytes) {
    say(`${file.name}: larger than the ${Math.round(info.max_bytes / 2 ** 20)} MiB that this page takes`, true);
    return;
  }
  say(`${file.name}: looking ...`);
  document.documentElement.dataset.state = "busy";
  try {
    const answer = await fetch(`detect?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "X-TCM-D2": "1" },
      body: file,
    });
    const content = await answer.json();
    if (turn !== sending) return; // another picture was sent meanwhile
    if (!answer.ok) throw new Error(content.error);
    await show(content);
    say(`${content.name}: ${content.width} x ${content.height} px`);
  } catch (error) {
    if (turn === sending) say(`${file.name}: ${error.message}`, true);
  } finally {
    if (turn === sending) document.documentElement.dataset.state = "done";
  }
}

// --- showing ---------------------------------------------------------------------------------

async function show(content) {
  result = content;
  const picture = $("picture");
  picture.src = `picture/${content.key}`;
  picture.alt = content.name;
  await picture.decode();
  picture.width = content.width;
  picture.height = content.height;
  $("boxes").setAttribute("viewBox", `0 0 ${content.width} ${content.height}`);
  $("name").textContent = content.name;
  $("panel").hidden = $("zoom").hidden = false;
  draw();
  fit();
}

function isShown(one) {
  return one.score >= Number($("threshold").value) && !hidden.has(one.class);
}

function draw() {
  const threshold = Number($("threshold").value);
  $("shown").value = threshold.toFixed(2);
  if (result === null) return;
  const counts = info.classes.map(() => 0);
  const polygons = [];
  for (const one of result.detections) {
    if (one.score >= threshold) counts[one.class] += 1;
    if (!isShown(one)) continue;
    const { name, color } = info.classes[one.class];
    const polygon = svg("polygon", { points: one.quad.map((p) => p.join(",")).join(" "), stroke: color });
    const title = svg("title", {});
    title.textContent = `${name} ${one.score.toFixed(2)}`;
    polygon.append(title);
    polygons.push(polygon);
  }
  $("boxes").replaceChildren(...polygons);
  $("counts").textContent = `${polygons.length} of ${result.detections.length} detections`;
  $("classes").querySelectorAll("li").forEach((item, index) => {
    item.querySelector(".count").textContent = counts[index];
    item.querySelector("input").checked = !hidden.has(index);
  });
  const classes = info.classes.map((_, index) => index).filter((index) => !hidden.has(index));
  for (const form of ["geojson", "dota", "coco"]) {
    $(form).href = `download/${result.key}/${form}?threshold=${threshold}&classes=${classes.join(",")}`;
  }
}

function listClasses() {
  const items = info.classes.map(({ name, color }, index) => {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(index);
      else hidden.add(index);
      draw();
    });
    const mark = svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    mark.append(svg("rect", { width: 10, height: 10, rx: 2, fill: color }));
    const count = document.createElement("span");
    count.className = "count";
    label.append(box, mark, name, count);
    item.append(label);
    return item;
  });
  $("classes").replaceChildren(...items);
}

// --- zooming ---------------------------------------------------------------------------------

function place() {
  $("canvas").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
}

function fit() {
  if (result === null) return;
  const { clientWidth, clientHeight } = $("stage");
  const scale = Math.min(clientWidth / result.width, clientHeight / result.height);
  view = { scale, x: (clientWidth - scale * result.width) / 2, y: (clientHeight - scale * result.height) / 2 };
  place();
}

function zoom(factor, x, y) {
  if (result === null) return;
  const { clientWidth, clientHeight } = $("stage");
  const smallest = Math.min(clientWidth / result.width, clientHeight / result.height, 1) / 2;
  const scale = Math.min(Math.max(view.scale * factor, smallest), MAX_ZOOM);
  const ratio = scale / view.scale;
  view = { scale, x: x - ratio * (x - view.x), y: y - ratio * (y - view.y) };
  place();
}

function zoomAtCentre(factor) {
  zoom(factor, $("stage").clientWidth / 2, $("stage").clientHeight / 2);
}

function move(dx, dy) {
  view.x += dx;
  view.y += dy;
  place();
}

function listen() {
  const stage = $("stage");
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const place = stage.getBoundingClientRect();
    zoom(event.deltaY < 0 ? STEP : 1 / STEP, event.clientX - place.left, event.clientY - place.top);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragging");
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) move(event.movementX, event.movementY);
  });
  stage.addEventListener("pointerup", () => stage.classList.remove("dragging"));
  stage.addEventListener("keydown", (event) => {
    const keys = {
      "+": () => zoomAtCentre(STEP), "=": () => zoomAtCentre(STEP), "-": () => zoomAtCentre(1 / STEP), "0": fit,
      ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
    };
    if (keys[event.key] && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  $("in").addEventListener("click", () => zoomAtCentre(STEP));
  $("out").addEventListener("click", () => zoomAtCentre(1 / STEP));
  $("fit").addEventListener("click", fit);
  window.addEventListener("resize", fit);
  $("threshold").addEventListener("input", draw);
  $("all").addEventListener("click", () => { hidden.clear(); draw(); });
  $("none").addEventListener("click", () => { hidden = new Set(info.classes.keys()); draw(); });
  $("file").addEventListener("change", () => {
    if ($("file").files.length) send($("file").files[0]);
    $("file").value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
}

async function start() {
  listen();
  info = await (await fetch("info")).json();
  $("threshold").min = info.lowest;
  $("threshold").value = info.threshold;
  listClasses();
  draw();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => say(`the page could not start: ${error.message}`, true));
