// Precision-recall curves.
const CHART = { width: 640, height: 460, left: 66, right: 20, top: 12, bottom: 54 };
const chartX = (recall) => CHART.left + recall * (CHART.width - CHART.left - CHART.right);
const chartY = (precision) => CHART.top + (1 - precision) * (CHART.height - CHART.top - CHART.bottom);

function setUpCurves() {
  const svg = makeSvg("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img",
    "aria-label": "Precision over recall, one curve per class; the table above has the numbers" });
  for (let tick = 0; tick <= 10; tick += 2) {
    const value = tick / 10;
    svg.append(
      makeSvg("line", { class: "grid", x1: chartX(value), x2: chartX(value), y1: chartY(0), y2: chartY(1) }),
      makeSvg("line", { class: "grid", x1: chartX(0), x2: chartX(1), y1: chartY(value), y2: chartY(value) }),
      makeSvg("text", { x: chartX(value), y: CHART.height - 32, "text-anchor": "middle" }, value.toFixed(1)),
      makeSvg("text", { x: CHART.left - 6, y: chartY(value) + 5, "text-anchor": "end" }, value.toFixed(1)),
    );
  }
  svg.append(
    makeSvg("text", { x: chartX(0.5), y: CHART.height - 8, "text-anchor": "middle" }, "recall"),
    makeSvg("text", { x: 16, y: chartY(0.5), "text-anchor": "middle", transform: `rotate(-90 16 ${chartY(0.5)})` }, "precision"),
    makeSvg("g", { id: "lines" }),
  );
  byId("chart").append(svg);
  DATA.classes.forEach((one, index) => {
    if (!one.curve.recall.length) return;
    const line = makeSvg("svg", { viewBox: "0 0 32 12", "aria-hidden": "true" },
      makeSvg("line", { x1: 1, x2: 31, y1: 6, y2: 6, "stroke-width": 3, "stroke-dasharray": DASHES[index % 3],
        style: `stroke:${inkColor(one.color)}` }));
    byId("legend").append(make("button", { type: "button", "data-index": index, "aria-pressed": "false",
      onclick: () => chooseFront(index) }, line, one.name, make("b", {}, percent(one.ap))));
  });
  listeners.push(drawCurves);
}

function drawCurves() {
  const lines = [];
  DATA.classes.forEach((one, index) => {
    const { recall, precision } = one.curve;
    if (!recall.length) return;
    const points = recall.map((r, i) => `${chartX(r).toFixed(1)},${chartY(precision[i]).toFixed(1)}`);
    const dimmed = state.front >= 0 && state.front !== index;
    const front = state.front === index;
    const path = makeSvg("path", { d: `M${chartX(0).toFixed(1)},${chartY(precision[0]).toFixed(1)}L${points.join("L")}`,
      class: `curve ${dimmed ? "dimmed" : ""} ${front ? "front" : ""}`, "data-index": index,
      "stroke-dasharray": DASHES[index % 3], style: `stroke:${inkColor(one.color)}` });
    path.append(makeSvg("title", {}, `${one.name}: AP ${percent(one.ap)}`));
    const now = figures(one);
    const group = makeSvg("g", {}, path);
    if (now.precision !== null) {
      group.append(makeSvg("circle", { cx: chartX(now.recall), cy: chartY(now.precision), r: front ? 7 : 4.5,
        class: `dot ${dimmed ? "dimmed" : ""}`, style: `fill:${inkColor(one.color)};stroke:var(--panel);stroke-width:1.5` }));
    }
    if (front) lines.push(group);
    else lines.unshift(group);
  });
  byId("lines").replaceChildren(...lines);
  for (const button of byId("legend").children) {
    button.setAttribute("aria-pressed", Number(button.dataset.index) === state.front);
  }
}
