// Pictures with boxes: what is drawn over a picture, and the cards.
const quadPath = (quad) => `M${quad[0]} ${quad[1]}L${quad[2]} ${quad[3]}L${quad[4]} ${quad[5]}L${quad[6]} ${quad[7]}Z`;

// Boxes of a picture at the threshold, by layer: lists of { quad, cls, score, kind }.
function boxesOf(image) {
  const shown = (cls) => state.filter < 0 || state.filter === cls;
  const boxes = { gt: [], hit: [], missed: [], false: [], ignored: [] };
  image.gt.quads.forEach((quad, i) => {
    const cls = image.gt.cls[i];
    if (!shown(cls)) return;
    const box = { quad, cls, score: null, iou: null };
    boxes.gt.push({ ...box, kind: "gt" });
    if (image.gt.difficult[i]) boxes.ignored.push({ ...box, kind: "difficult" });
    else if (!reaches(image.gt.found[i])) boxes.missed.push({ ...box, kind: "missed" });
  });
  image.det.quads.forEach((quad, i) => {
    const cls = image.det.cls[i];
    if (!shown(cls) || !reaches(image.det.score[i])) return;
    const kind = OUTCOMES[image.det.outcome[i]];
    boxes[kind].push({ quad, cls, score: image.det.score[i], iou: image.det.iou[i], kind });
  });
  return boxes;
}

const FINE_BELOW_PX = 13;
const sideOf = (quad, from) => Math.hypot(quad[from] - quad[(from + 2) % 8], quad[from + 1] - quad[(from + 3) % 8]);

// The median short side of a picture's objects, in pixels of the file.
function typicalSide(image) {
  if (image.side === undefined) {
    const quads = image.gt.quads.length ? image.gt.quads : image.det.quads;
    const sides = quads.map((quad) => Math.min(sideOf(quad, 0), sideOf(quad, 2))).sort((a, b) => a - b);
    image.side = sides.length ? sides[Math.floor(sides.length / 2)] : Infinity;
  }
  return image.side;
}

// scale: pixels of the screen per pixel of the file.
function drawOverlay(svg, image, boxes, scale) {
  const parts = [];
  svg.classList.toggle("fine", typicalSide(image) * scale < FINE_BELOW_PX);
  for (const kind of ["gt", "ignored", "hit", "missed", "false"]) {
    if (!state.layers[kind] || !boxes[kind].length) continue;
    const d = boxes[kind].map((box) => quadPath(box.quad)).join("");
    const path = makeSvg("path", { class: kind, d, "data-count": boxes[kind].length });
    // A dark casing keeps the lines legible on any ground.
    parts.push(makeSvg("path", { class: "case", d }), path);
  }
  svg.replaceChildren(...parts);
}

// Inferno, at six places.
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];

function heatColor(unit) {
  const place = Math.min(0.9999, Math.max(0, unit)) * (HEAT.length - 1);
  const low = HEAT[Math.floor(place)];
  const high = HEAT[Math.floor(place) + 1];
  return low.map((value, i) => Math.round(value + (high[i] - value) * (place % 1)));
}

// A small canvas with one score map; the browser enlarges it smoothly.
function drawScoreMap(canvas, image) {
  const maps = image.maps;
  if (!maps.values) maps.values = Uint8Array.from(atob(maps.bytes), (c) => c.charCodeAt(0));
  canvas.width = maps.w;
  canvas.height = maps.h;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(maps.w, maps.h);
  const start = state.mapClass * maps.w * maps.h;
  for (let i = 0; i < maps.w * maps.h; i += 1) {
    pixels.data.set([...heatColor(maps.values[start + i] / 255), 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
}

function makePicture(image) {
  const img = make("img", { alt: "", src: image.src, decoding: "async", loading: "lazy" });
  const svg = makeSvg("svg", { class: "overlay", viewBox: `0 0 ${image.w} ${image.h}`, "aria-hidden": "true" });
  const node = make("span", { class: "picture", style: `aspect-ratio:${image.w}/${image.h}` }, img, svg);
  return { node, svg, canvas: null, mapShown: -1 };
}

function drawPicture(picture, image, scale) {
  const boxes = boxesOf(image);
  const wantMap = Boolean(state.layers.maps && image.maps);
  picture.node.classList.toggle("mapped", wantMap);
  if (wantMap && !picture.canvas) {
    picture.canvas = make("canvas", { "aria-hidden": "true" });
    picture.node.insertBefore(picture.canvas, picture.svg);
    picture.mapShown = -1;
  }
  if (!wantMap && picture.canvas) {
    picture.canvas.remove();
    picture.canvas = null;
  }
  if (wantMap && picture.mapShown !== state.mapClass) {
    drawScoreMap(picture.canvas, image);
    picture.mapShown = state.mapClass;
  }
  drawOverlay(picture.svg, image, boxes, scale);
  return boxes;
}

const summaryOf = (boxes) => `${boxes.hit.length} hits, ${boxes.missed.length} missed, ${boxes.false.length} false`;

const SORTS = {
  errors: { name: "most errors", of: (boxes) => -(boxes.missed.length + boxes.false.length) },
  missed: { name: "most missed", of: (boxes) => -boxes.missed.length },
  false: { name: "most false", of: (boxes) => -boxes.false.length },
  f1: { name: "lowest F1", of: (boxes) => {
    const sum = 2 * boxes.hit.length + boxes.missed.length + boxes.false.length;
    return sum ? (2 * boxes.hit.length) / sum : 2;
  } },
  id: { name: "by name", of: null },
};
let cards = [];
let cardOrder = [];

function setUpGallery() {
  const box = byId("layer-boxes");
  LAYERS.forEach((layer, index) => {
    const input = make("input", { type: "checkbox", name: "layer", value: layer.key });
    input.checked = layer.on;
    input.addEventListener("change", () => setLayer(layer.key, input.checked));
    box.append(make("label", { title: `key ${index + 1}` }, input, layer.name));
  });
  const filter = byId("class-filter");
  filter.append(make("option", { value: -1 }, "all"));
  DATA.classes.forEach((one, index) => filter.append(make("option", { value: index }, one.name)));
  filter.addEventListener("change", () => { state.filter = Number(filter.value); changed(); });
  if (state.layers.maps !== undefined) {
    const select = byId("map-class");
    DATA.classes.forEach((one, index) => select.append(make("option", { value: index }, one.name)));
    select.addEventListener("change", () => {
      state.mapClass = Number(select.value);
      setLayer("maps", true);
    });
    byId("map-field").hidden = false;
  }
  const sort = byId("sort");
  for (const [key, one] of Object.entries(SORTS)) sort.append(make("option", { value: key }, one.name));
  sort.addEventListener("change", arrangeCards);
  cards = DATA.images.map((image, index) => {
    const picture = makePicture(image);
    if (image.h > image.w) picture.node.classList.add("tall");
    const counts = make("span");
    const node = make("button", { type: "button", class: "card", "data-image": index,
      onclick: () => openViewer(index), onkeydown: moveAmongCards },
    make("span", { class: "frame" }, picture.node),
    make("span", { class: "caption" }, make("b", {}, image.id), counts));
    return { node, picture, counts, image };
  });
  const more = DATA.numImages - DATA.images.length;
  byId("gallery-note").textContent = DATA.images.length
    ? `The ${DATA.images.length} pictures with most errors${more > 0 ? ` (of ${DATA.numImages})` : ""}. ` +
      "Choose one to look closer; arrow keys move between them."
    : "No pictures were given to this report.";
  if (!DATA.images.length) byId("layers").hidden = true;
  listeners.push(drawCards);
  arrangeCards();
}

function drawCards() {
  // Behind the viewer nobody sees them; it asks for them when it closes.
  if (byId("viewer").open) return;
  // Read once: each card read after another was drawn would lay the page out anew.
  const width = cards[0]?.node.clientWidth || 300;
  for (const card of cards) drawCard(card, width);
}

function drawCard(card, width) {
  card.boxes = drawPicture(card.picture, card.image, width / Math.max(card.image.w, card.image.h));
  card.counts.textContent = summaryOf(card.boxes);
}

// The order changes when asked for, not under the hand that moves the slider.
function arrangeCards() {
  const sort = SORTS[byId("sort").value];
  drawCards();
  cardOrder = cards.map((_, index) => index);
  cardOrder.sort((a, b) => {
    const difference = sort.of ? sort.of(cards[a].boxes) - sort.of(cards[b].boxes)
      : cards[a].image.id.localeCompare(cards[b].image.id);
    return difference || a - b;
  });
  byId("cards").replaceChildren(...cardOrder.map((index) => cards[index].node));
}

function setLayer(key, on) {
  state.layers[key] = on;
  for (const input of document.getElementsByName("layer")) {
    if (input.value === key) input.checked = on;
  }
  changed();
}

function moveAmongCards(event) {
  const nodes = [...byId("cards").children];
  const here = nodes.indexOf(event.currentTarget);
  const top = (node) => node.getBoundingClientRect().top;
  const perRow = Math.max(1, nodes.filter((node) => Math.abs(top(node) - top(nodes[0])) < 2).length);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow };
  let target = nodes[here + steps[event.key]];
  if (event.key === "Home") target = nodes[0];
  if (event.key === "End") target = nodes[nodes.length - 1];
  if (!target) return;
  event.preventDefault();
  target.focus();
}
