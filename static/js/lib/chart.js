// Line charts as SVG: axes with round numbers, a cursor that reads values, redrawn when the box changes.
import { el, svg } from "./dom.js";
import { number } from "./i18n.js";

const PAD = { left: 44, right: 10, top: 8, bottom: 22 };

/** About `count` round numbers between `low` and `high`. */
export function ticks(low, high, count = 4) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
  return found;
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 1e6) return Number(value.toPrecision(2)).toExponential().replace("e+", "e");
  if (size < 1) return String(Number(value.toPrecision(3)));
  return number(value, size < 10 && !Number.isInteger(value) ? 2 : 0);
}

/** `series`: [{name, points: [[x, y], …]}]; `label` is what a screen reader hears. */
export function lineChart(box, series, label) {
  const tip = el("div", { className: "chart-tip", hidden: true });
  const draw = () => {
    const width = Math.max(box.clientWidth, 160);
    const height = Math.max(box.clientHeight, 120);
    box.replaceChildren(picture(series, width, height, label, tip), tip);
  };
  new ResizeObserver(draw).observe(box);
  box.addEventListener("redraw", draw); // after the points of a series have changed
}

function picture(series, width, height, label, tip) {
  const all = series.flatMap((one) => one.points);
  const xs = all.map((point) => point[0]);
  const ys = all.map((point) => point[1]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const bottom = Math.min(0, ...ys);
  const top = Math.max(...ys) * 1.05 || 1;
  const x = (value) => PAD.left + ((value - left) / (right - left || 1)) * (width - PAD.left - PAD.right);
  const y = (value) => height - PAD.bottom - ((value - bottom) / (top - bottom || 1)) * (height - PAD.top - PAD.bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of ticks(bottom, top)) {
    root.append(svg("line", { class: "grid-line", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }));
    root.append(svg("text", { x: PAD.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(left, right, Math.min(6, width / 60))) {
    root.append(svg("text", { x: x(value), y: height - 6, "text-anchor": "middle" }, short(value)));
  }
  series.forEach((one, index) => {
    const path = one.points.map(([a, b], at) => `${at ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    root.append(svg("path", { class: `line line-${index}`, d: path }));
    if (one.points.length < 20) {
      for (const [a, b] of one.points) root.append(svg("circle", { class: `dot-${index}`, cx: x(a), cy: y(b), r: 2.5 }));
    }
  });
  follow(root, series, { x, height, width, left, right }, tip);
  return root;
}

function follow(root, series, { x, height, width, left, right }, tip) {
  const cursor = svg("line", { class: "cursor", y1: PAD.top, y2: height - PAD.bottom, visibility: "hidden" });
  root.append(cursor);
  root.addEventListener("pointermove", (event) => {
    const share = (event.offsetX - PAD.left) / (width - PAD.left - PAD.right);
    const wanted = left + Math.min(Math.max(share, 0), 1) * (right - left);
    const near = series.map((one) => one.points.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a)));
    const at = near[0][0];
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    cursor.setAttribute("visibility", "visible");
    tip.textContent = `${short(at)}: ${near.map((point, index) => `${series[index].name} ${short(point[1])}`).join(" · ")}`;
    tip.hidden = false;
  });
  root.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tip.hidden = true;
  });
}
