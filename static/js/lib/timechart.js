// Charts over time by uPlot: gaps where nothing was measured, marks of what happened, and the same figures as a table.
import uPlot from "../../vendor/uplot/uplot.js";
import { el } from "./dom.js";
import { fill, gettext, locale } from "./i18n.js";

const STYLES = [
  { colour: "--accent", dash: [] },
  { colour: "--warn", dash: [7, 3] },
  { colour: "--bad", dash: [2, 3] },
];
const MARKS = { bad: "--bad", warn: "--warn", plain: "--line-strong" };
const HEIGHT = 200;

/** A custom property's colour as it is in the theme at work: the property itself may still be a choice of two. */
export function colourOf(name) {
  const probe = el("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** A moment as far as it tells apart what a range of `length` seconds shows. */
export function moment(time, length) {
  const options = length > 2 * 86400 ? { month: "short", day: "numeric", hour: "2-digit" } : { hour: "2-digit", minute: "2-digit" };
  return new Intl.DateTimeFormat(locale, { ...options, hour12: false }).format(time * 1000);
}

/** Points that have no neighbour, which no line would show. */
function alone(chart, index) {
  const values = chart.data[index];
  return values.flatMap((value, at) => (value !== null && values[at - 1] == null && values[at + 1] == null ? [at] : []));
}

export class TimeChart {
  /** `series`: [{key, name}]; `text(value)` writes a value with its unit. */
  constructor(figure, { series, text }) {
    this.figure = figure;
    this.box = figure.querySelector("[data-plot]");
    this.details = figure.querySelector("details");
    this.series = series;
    this.text = text;
    this.times = [];
    this.columns = {};
    this.marks = [];
    new ResizeObserver(() => this.plot?.setSize({ width: this.width, height: HEIGHT })).observe(this.box);
    this.details.addEventListener("toggle", () => this.fillTable());
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  get width() {
    return Math.max(200, this.box.clientWidth);
  }

  get length() {
    return this.times.length * this.step;
  }

  /** Show other figures. `marks`: [{at, tone}]. */
  show({ times, step, columns, marks = [] }) {
    const same = this.plot && this.step === step;
    Object.assign(this, { times, step, columns, marks });
    if (same && this.any()) this.plot.setData(this.data());
    else this.draw();
    this.fillTable();
  }

  any() {
    return this.series.some(({ key }) => this.columns[key]?.some((value) => value !== null));
  }

  data() {
    return [this.times, ...this.series.map(({ key }) => this.columns[key] ?? this.times.map(() => null))];
  }

  draw() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.times.length) return;
    if (!this.any()) {
      this.box.replaceChildren(el("p", { className: "plot-empty" }, gettext("No data for this period.")));
      return;
    }
    this.box.replaceChildren();
    const [ink, line] = [colourOf("--ink-3"), colourOf("--line")];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: '11px "Inter", system-ui, sans-serif' };
    const options = {
      width: this.width,
      height: HEIGHT,
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map((tick) => moment(tick, this.length)), space: 70 },
        { ...axis, values: (_, ticks) => ticks.map((tick) => this.text(tick)), size: 68 },
      ],
      series: [
        { label: gettext("Time"), value: (_, time) => (time == null ? "–" : moment(time, this.length)) },
        ...this.series.map(({ name }, index) => ({
          label: name,
          stroke: colourOf(STYLES[index].colour),
          dash: STYLES[index].dash,
          width: 1.75,
          points: { show: true, size: 5, filter: alone },
          value: (_, value) => (value == null ? "–" : this.text(value)),
        })),
      ],
      hooks: { draw: [(plot) => this.drawMarks(plot)] },
    };
    this.plot = new uPlot(options, this.data(), this.box);
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const colours = Object.fromEntries(Object.entries(MARKS).map(([tone, name]) => [tone, colourOf(name)]));
    ctx.save();
    for (const { at, tone } of this.marks) {
      const x = Math.round(plot.valToPos(at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = colours[tone];
      ctx.setLineDash(tone === "bad" ? [] : [3, 3]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** The figures behind the lines, newest first, for whoever reads rather than looks. Made when it is opened. */
  fillTable() {
    if (!this.details.open) return;
    const head = el("tr", {}, el("th", { scope: "col" }, gettext("Time")), ...this.series.map(({ name }) => el("th", { scope: "col", className: "is-end" }, name)));
    const rows = this.times.map((time, at) => {
      const values = this.series.map(({ key }) => this.columns[key]?.[at] ?? null);
      const cells = values.map((value) => el("td", { className: "is-end num" }, value === null ? "–" : this.text(value)));
      return el("tr", {}, el("th", { scope: "row" }, moment(time, this.length)), ...cells);
    });
    const title = this.figure.querySelector("figcaption").textContent.trim();
    const caption = el("caption", { className: "sr-only" }, fill(gettext("%(title)s, newest first"), { title }));
    this.details.querySelector("[data-table]").replaceChildren(el("table", { className: "plot-table" }, caption, el("thead", {}, head), el("tbody", {}, ...rows.reverse())));
  }
}
