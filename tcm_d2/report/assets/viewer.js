// One picture at a time: enlarged, with names, and its errors as a list.
const MAX_ERRORS = 300;
const MAX_ZOOM = 16;
const LABEL_PX = 13;
// With more false boxes their names, too, wait for room.
const MANY_FALSE = 60;
const view = { index: -1, picture: null, boxes: null, zoom: 1, chosen: null };

function openViewer(index) {
  const viewer = byId("viewer");
  view.index = index;
  view.zoom = 1;
  view.chosen = null;
  const image = DATA.images[index];
  if (!viewer.open) {
    // The same controls, moved: a modal dialog leaves the rest of the page out of reach.
    byId("viewer-controls").append(byId("controls"), byId("layers"));
    viewer.showModal();
  }
  byId("viewer-title").textContent = image.id;
  view.picture = makePicture(image);
  view.picture.node.querySelector("img").loading = "eager";
  byId("stage").replaceChildren(view.picture.node);
  byId("stage").setAttribute("aria-label", `picture ${image.id} with boxes`);
  byId("stage").focus();
  fitPicture();
  drawViewer();
}

function closeViewer() {
  byId("controls-home").append(byId("controls"));
  byId("layers-home").append(byId("layers"));
  const index = view.index;
  view.index = -1;
  view.picture = null;
  byId("stage").replaceChildren();
  drawCards();
  cards[index]?.node.focus();
}

function fitPicture() {
  if (view.index < 0) return;
  const stage = byId("stage");
  const image = DATA.images[view.index];
  const scale = Math.min(stage.clientWidth / image.w, stage.clientHeight / image.h) * view.zoom;
  view.picture.node.style.width = `${image.w * scale}px`;
  view.picture.node.style.height = `${image.h * scale}px`;
  view.scale = scale;
}

function zoomTo(zoom, clientX, clientY) {
  const stage = byId("stage");
  const frame = stage.getBoundingClientRect();
  const before = view.picture.node.getBoundingClientRect();
  const x = clientX ?? frame.left + frame.width / 2;
  const y = clientY ?? frame.top + frame.height / 2;
  const part = [(x - before.left) / before.width, (y - before.top) / before.height];
  view.zoom = Math.min(MAX_ZOOM, Math.max(1, zoom));
  fitPicture();
  // The place under the pointer stays there.
  const after = view.picture.node.getBoundingClientRect();
  stage.scrollLeft += after.left + part[0] * after.width - x;
  stage.scrollTop += after.top + part[1] * after.height - y;
  drawViewer();
}

const nameOf = (box) => DATA.classes[box.cls].name;
const describe = (box) => {
  const score = box.score === null ? "" : ` ${box.score.toFixed(2)}`;
  const iou = box.iou ? `, IoU ${box.iou.toFixed(2)}` : "";
  const words = { gt: "object", hit: "hit", missed: "missed", false: "false", ignored: "on a difficult object", difficult: "difficult object" };
  return `${words[box.kind]}: ${nameOf(box)}${score}${iou}`;
};

function drawViewer() {
  if (view.index < 0) return;
  const image = DATA.images[view.index];
  view.boxes = drawPicture(view.picture, image, view.scale);
  if (view.chosen) {
    view.picture.svg.append(makeSvg("path", { class: "chosen", d: quadPath(view.chosen.quad) }));
  }
  if (state.layers.labels) drawNames();
  drawErrors();
}

// Names at false boxes, then at others large enough, wherever they hide no other name.
function drawNames() {
  const { svg } = view.picture;
  const taken = new Set();
  const cell = LABEL_PX / view.scale;
  const colors = { missed: "rgb(240,228,66)", false: "rgb(255,120,70)", hit: "rgb(140,215,255)" };
  for (const kind of ["false", "missed", "hit"]) {
    if (!state.layers[kind]) continue;
    for (const box of view.boxes[kind]) {
      const xs = [0, 2, 4, 6].map((i) => box.quad[i]);
      const ys = [1, 3, 5, 7].map((i) => box.quad[i]);
      const text = box.score === null ? nameOf(box) : `${nameOf(box)} ${box.score.toFixed(2)}`;
      const width = text.length * cell * 0.58;
      // In a crowd of small boxes names would hide what they name; enlarging brings them.
      const reach = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys));
      const isNamed = kind === "false" && view.boxes.false.length <= MANY_FALSE;
      if (!isNamed && reach < 0.75 * width) continue;
      const x = Math.max(0, Math.min((Math.min(...xs) + Math.max(...xs)) / 2 - width / 2, DATA.images[view.index].w - width));
      const y = Math.max(cell, Math.min(...ys) - 0.35 * cell);
      const places = [];
      for (let column = Math.floor(x / cell); column <= Math.floor((x + width) / cell); column += 1) {
        for (const row of [Math.floor(y / cell), Math.floor((y - 0.9 * cell) / cell)]) places.push(`${row},${column}`);
      }
      if (places.some((place) => taken.has(place))) continue;
      for (const place of places) taken.add(place);
      svg.append(makeSvg("text", { x, y, "font-size": cell, "stroke-width": cell / 4.5, fill: colors[kind] }, text));
    }
  }
}

function drawErrors() {
  const errors = [...view.boxes.false, ...view.boxes.missed];
  byId("errors-title").textContent = `Errors (${errors.length}); ${view.boxes.hit.length} hits`;
  const same = (box) => view.chosen && box.kind === view.chosen.kind && box.quad === view.chosen.quad;
  const list = byId("errors");
  const focused = list.contains(document.activeElement) ? [...list.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  list.replaceChildren(...errors.slice(0, MAX_ERRORS).map((box) =>
    make("li", {}, make("button", { type: "button", "aria-pressed": Boolean(same(box)), onclick: () => chooseBox(box, true) }, describe(box)))));
  if (errors.length > MAX_ERRORS) list.append(make("li", {}, `and ${errors.length - MAX_ERRORS} more`));
  if (focused >= 0) list.querySelectorAll("button")[focused]?.focus();
  if (view.chosen) byId("hint").textContent = describe(view.chosen);
}

function chooseBox(box, scroll) {
  view.chosen = box;
  byId("hint").textContent = box ? describe(box) : "";
  if (scroll && box) {
    const stage = byId("stage");
    const span = Math.max(...box.quad.filter((_, i) => i % 2 === 0)) - Math.min(...box.quad.filter((_, i) => i % 2 === 0));
    const wanted = Math.min(MAX_ZOOM, (0.2 * stage.clientWidth) / Math.max(span, 1) / (view.scale / view.zoom));
    if (view.zoom < 0.5 * wanted) zoomTo(Math.min(wanted, 4));
    const frame = stage.getBoundingClientRect();
    const picture = view.picture.node.getBoundingClientRect();
    const middle = (from) => (box.quad[from] + box.quad[from + 2] + box.quad[from + 4] + box.quad[from + 6]) / 4;
    stage.scrollLeft += picture.left + middle(0) * view.scale - (frame.left + frame.width / 2);
    stage.scrollTop += picture.top + middle(1) * view.scale - (frame.top + frame.height / 2);
  }
  drawViewer();
}

function isInside(quad, x, y) {
  let inside = false;
  for (let i = 0, j = 6; i < 8; j = i, i += 2) {
    const crosses = quad[i + 1] > y !== quad[j + 1] > y;
    if (crosses && x < ((quad[j] - quad[i]) * (y - quad[i + 1])) / (quad[j + 1] - quad[i + 1]) + quad[i]) inside = !inside;
  }
  return inside;
}

function boxUnder(event) {
  const frame = view.picture.node.getBoundingClientRect();
  const x = (event.clientX - frame.left) / view.scale;
  const y = (event.clientY - frame.top) / view.scale;
  for (const kind of ["false", "missed", "hit", "ignored", "gt"]) {
    if (!state.layers[kind]) continue;
    const box = view.boxes[kind].find((one) => isInside(one.quad, x, y));
    if (box) return box;
  }
  return null;
}

function stepViewer(by) {
  const at = cardOrder.indexOf(view.index);
  openViewer(cardOrder[(at + by + cardOrder.length) % cardOrder.length]);
}

function viewerKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input[type=range], select");
  const layer = LAYERS[Number(event.key) - 1];
  const actions = {
    "+": () => zoomTo(view.zoom * 1.5), "=": () => zoomTo(view.zoom * 1.5), "-": () => zoomTo(view.zoom / 1.5),
    0: () => zoomTo(1), "[": () => setStep(state.step - 5), "]": () => setStep(state.step + 5),
  };
  if (!typing && !event.shiftKey) {
    actions.ArrowLeft = () => stepViewer(-1);
    actions.ArrowRight = () => stepViewer(1);
  }
  if (!typing && event.shiftKey && event.key.startsWith("Arrow")) {
    const far = 120;
    const by = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
    actions[event.key] = () => byId("stage").scrollBy(...by);
  }
  if (layer && !typing) actions[event.key] = () => setLayer(layer.key, !state.layers[layer.key]);
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

function setUpViewer() {
  const viewer = byId("viewer");
  const stage = byId("stage");
  byId("close").addEventListener("click", () => viewer.close());
  byId("previous").addEventListener("click", () => stepViewer(-1));
  byId("next").addEventListener("click", () => stepViewer(1));
  byId("zoom-in").addEventListener("click", () => zoomTo(view.zoom * 1.5));
  byId("zoom-out").addEventListener("click", () => zoomTo(view.zoom / 1.5));
  byId("zoom-fit").addEventListener("click", () => zoomTo(1));
  viewer.addEventListener("close", closeViewer);
  viewer.addEventListener("keydown", viewerKeys);
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && event.deltaMode === 0 && Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
    event.preventDefault();
    zoomTo(view.zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2), event.clientX, event.clientY);
  }, { passive: false });
  stage.addEventListener("pointermove", (event) => {
    if (!view.picture || view.chosen) return;
    const box = boxUnder(event);
    byId("hint").textContent = box ? describe(box) : "Point at a box, or choose one of the errors.";
  });
  stage.addEventListener("click", (event) => { if (view.picture) chooseBox(boxUnder(event), false); });
  addEventListener("resize", () => { fitPicture(); drawViewer(); });
  listeners.push(drawViewer);
}

setUpHead();
setUpClassTable();
setUpCurves();
setUpConfusion();
drawStrata("size-table", "By size (root of the area)", DATA.bySize);
drawStrata("aspect-table", "By shape (long side / short side)", DATA.byAspect);
setUpGallery();
setUpViewer();
for (const listener of listeners) listener();
document.documentElement.dataset.ready = "yes";
