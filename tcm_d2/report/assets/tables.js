// Tables: classes (sortable), confusion, AP by size and aspect.
const COLUMNS = [
  { key: "name", name: "Class", of: (one) => one.name },
  { key: "ap", name: "AP", of: (one) => one.ap },
  { key: "ap75", name: "AP75", of: (one) => one.ap75 },
  { key: "ap5095", name: "AP50:95", of: (one) => one.ap5095 },
  { key: "precision", name: "Precision", of: (one) => figures(one).precision },
  { key: "recall", name: "Recall", of: (one) => figures(one).recall },
  { key: "f1", name: "F1", of: (one) => figures(one).f1 },
  { key: "maxRecall", name: "Max. recall", of: (one) => one.maxRecall },
  { key: "angleError", name: "Angle error", of: (one) => one.angleError },
  { key: "objects", name: "Objects", of: (one) => one.objects },
  { key: "difficult", name: "Difficult", of: (one) => one.difficult },
  { key: "detections", name: "Detections", of: (one) => one.detections },
];
const COUNTS = ["objects", "difficult", "detections"];

function cellText(column, value) {
  if (COUNTS.includes(column.key)) return number(value);
  if (column.key === "angleError") return value === null ? "-" : `${value.toFixed(1)}\u00b0`;
  return percent(value);
}

const order = { key: null, ascending: true };

function sortedClasses() {
  const indices = DATA.classes.map((_, index) => index);
  if (order.key === null) return indices;
  const column = COLUMNS.find((c) => c.key === order.key);
  const sign = order.ascending ? 1 : -1;
  return indices.sort((a, b) => {
    const left = column.of(DATA.classes[a]);
    const right = column.of(DATA.classes[b]);
    // What is not defined stays below, either way.
    if (left === null || right === null) return (left === null) - (right === null) || a - b;
    const difference = column.key === "name" ? left.localeCompare(right) : left - right;
    return sign * difference || a - b;
  });
}

function setUpClassTable() {
  const row = make("tr");
  for (const column of COLUMNS) {
    const button = make("button", { type: "button", onclick: () => {
      // Numbers start with the largest, names with A.
      order.ascending = order.key === column.key ? !order.ascending : column.key === "name";
      order.key = column.key;
      drawClassTable();
    } }, column.name);
    row.append(make("th", { scope: "col", "data-key": column.key }, button));
  }
  byId("class-table").tHead.append(row);
  byId("classes-note").textContent =
    `AP: ${DATA.metric === "area" ? "area under the curve" : "11 points"}, IoU above ${DATA.iou}, in percent; ` +
    "precision, recall and F1 at the score threshold; angle error: median over the hits at any score. Sort by any column.";
  for (const text of DATA.warnings) byId("classes-note").append(make("br"), `Note: ${text}.`);
  listeners.push(drawClassTable);
}

function drawClassTable() {
  const table = byId("class-table");
  for (const head of table.tHead.rows[0].cells) {
    const here = head.dataset.key === order.key;
    head.setAttribute("aria-sort", here ? (order.ascending ? "ascending" : "descending") : "none");
  }
  const focused = document.activeElement?.closest?.("#class-table tbody tr")?.dataset.index;
  const rows = sortedClasses().map((index) => {
    const one = DATA.classes[index];
    const row = make("tr", { "data-index": index });
    if (state.front === index) row.className = "chosen";
    const button = make("button", { type: "button", "aria-pressed": state.front === index,
      onclick: () => chooseFront(index) }, swatch(one.color), one.name);
    row.append(make("th", { scope: "row" }, button));
    for (const column of COLUMNS.slice(1)) {
      const value = column.of(one);
      const cell = make("td", {}, cellText(column, value));
      if (column.key === "ap") {
        cell.className = "bar";
        cell.append(make("i", { style: `width:${100 * (value ?? 0)}%` }));
      }
      row.append(cell);
    }
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
  if (focused !== undefined) table.querySelector(`tr[data-index="${focused}"] button`)?.focus();
  const sum = (key) => number(DATA.classes.reduce((total, one) => total + one[key], 0));
  const mean = (column) => {
    const counted = DATA.classes.filter((one) => one.objects).map((one) => column.of(one));
    // Without a hit there is no angle; all else is 0 then.
    const values = column.key === "angleError" ? counted.filter((value) => value !== null) : counted.map((value) => value ?? 0);
    return cellText(column, values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
  };
  const cells = COLUMNS.slice(1).map((column) =>
    make("td", {}, COUNTS.includes(column.key) ? sum(column.key) : column.key === "ap" ? percent(DATA.meanAp) : mean(column)));
  table.tFoot.replaceChildren(make("tr", {}, make("th", { scope: "row" }, "mean / sum"), ...cells));
}

function setUpConfusion() {
  for (const radio of document.getElementsByName("cells")) radio.addEventListener("change", changed);
  listeners.push(drawConfusion);
}

function drawConfusion() {
  const size = DATA.confusionStep;
  // Matrices start with the first step above 0; the one at or below the threshold is shown.
  const which = Math.max(0, Math.min(DATA.confusion.length - 1, Math.floor(state.step / size) - 1));
  const matrix = DATA.confusion[which];
  const asShare = document.querySelector("input[name=cells]:checked").value === "share";
  const at = (((which + 1) * size) / 100).toFixed(2);
  byId("confusion-note").textContent =
    `Rows: classes of objects; columns: classes of detections with a score of at least ${at} ` +
    `(steps of ${(size / 100).toFixed(2)}). Each detection, best first, takes the object of any class that it overlaps most and that is still free.`;
  const names = DATA.classes.map((one) => one.name);
  const used = names.map((_, i) => i).filter((i) => matrix[i].some(Boolean) || matrix.some((row) => row[i]));
  const columns = [...used, names.length];
  const head = make("tr", {}, make("td"), ...columns.map((c) =>
    make("th", { scope: "col" }, make("span", {}, c < names.length ? names[c] : "missed"))));
  const body = columns.map((r) => {
    const sum = matrix[r].reduce((a, b) => a + b, 0);
    const cells = columns.map((c) => {
      const count = matrix[r][c];
      if (r === names.length && c === names.length) return make("td", { class: "zero" }, "");
      const share = sum ? count / sum : 0;
      const text = asShare ? (count ? percent(share, 0) : "0") : number(count);
      const kind = `heat ${r === c ? "" : "wrong"} ${count ? "" : "zero"}`;
      const title = `${r < names.length ? names[r] : "no object"} -> ${c < names.length ? names[c] : "missed"}: ${count} (${percent(share)} % of the row)`;
      return make("td", { class: kind, style: `--share:${share.toFixed(3)}`, title }, text);
    });
    return make("tr", {}, make("th", { scope: "row" }, r < names.length ? names[r] : "no object (false)"), ...cells);
  });
  byId("confusion-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function drawStrata(id, caption, strata) {
  const used = strata.bins.map((_, bin) => bin).filter((bin) => strata.objects.some((row) => row[bin]));
  const head = make("tr", {}, make("th", { scope: "col" }, "Class"),
    ...used.map((bin) => make("th", { scope: "col" }, strata.bins[bin])));
  const line = (name, color, values, counts) => make("tr", {},
    make("th", { scope: "row" }, color ? swatch(color) : "", name),
    ...used.map((bin) => {
      if (!counts[bin]) return make("td", {}, "");
      const value = values[bin];
      return make("td", { class: "heat", style: `--share:${value ?? 0}` }, percent(value), make("small", {}, number(counts[bin])));
    }));
  const body = DATA.classes.map((one, index) => ({ one, index })).filter(({ one }) => one.objects)
    .map(({ one, index }) => line(one.name, one.color, strata.ap[index], strata.objects[index]));
  const counts = strata.bins.map((_, bin) => strata.objects.reduce((sum, row) => sum + row[bin], 0));
  const means = strata.bins.map((_, bin) => {
    const values = strata.ap.map((row) => row[bin]).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  });
  byId(id).replaceChildren(make("caption", {}, caption), make("thead", {}, head),
    make("tbody", {}, ...body), make("tfoot", {}, line("mean / sum", null, means, counts)));
}
