// Training curves by uPlot: a few runs over one another, by step, epoch or time, smoothed or on a logarithmic scale.
import uPlot from "../../vendor/uplot/uplot.js";
import { $, el } from "./dom.js";
import { fill, gettext, locale } from "./i18n.js";
import { colourOf } from "./timechart.js";
import { duration } from "./units.js";

export const COLOURS = ["--accent", "--warn", "--bad", "--good", "--series-5", "--series-6"];
const HEIGHT = 220;
const EVALUATION = 1; // colour of a run's evaluation where it is alone

const AXES = { step: "step", epoch: "epoch", time: "elapsed" };

const short = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  return new Intl.NumberFormat(locale, { maximumSignificantDigits: 4 }).format(value);
};

/** Moving average whose weight of the past is `share`; not drawn to zero at the start. What is no number stays so. */
export function smoothed(values, share) {
  if (!share) return values;
  let [mean, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return mean / weight;
  });
}

/** [x, y] of the points of a run that have this key, by x; null where the value is no number. */
function columns(run, key, axis) {
  const by = AXES[axis];
  const points = run.curve.filter((point) => key in point && point[by] !== undefined).sort((a, b) => a[by] - b[by]);
  return [points.map((point) => point[by]), points.map((point) => point[key])];
}

export class RunChart {
  /** `keys`: [{key, name, dash, smooth, dots, colour}], the lines of each run in this chart; `colour`: its number, where a run is alone. */
  constructor(figure, keys) {
    this.figure = figure;
    this.keys = keys;
    this.box = $("[data-plot]", figure);
    new ResizeObserver(() => this.plot?.setSize({ width: this.width, height: HEIGHT })).observe(this.box);
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  get width() {
    return Math.max(200, this.box.clientWidth);
  }

  /** `look`: {axis, log, smoothing, range}. Hidden where no run has anything to show; `range`: [low, high] of the axis. */
  show(runs, look) {
    Object.assign(this, { runs, look });
    this.lines = this.#lines();
    this.figure.hidden = this.lines.length === 0;
    if (!this.lines.length) return;
    const shape = JSON.stringify([look.axis, look.log, this.lines.map((line) => [line.name, line.isRaw])]);
    if (this.plot && shape === this.shape) this.plot.setData(this.#data());
    else this.draw();
    this.shape = shape;
    this.#say();
  }

  #lines() {
    const lines = [];
    this.runs.forEach((run, at) => {
      for (const [number, { key, name, dash, smooth, dots, colour: own = EVALUATION }] of this.keys.entries()) {
        const [x, y] = columns(run, key, this.look.axis);
        if (x.length < 2) continue;
        const values = this.look.log ? y.map((value) => (value > 0 ? value : null)) : y;
        const share = smooth ? this.look.smoothing : 0;
        const colour = COLOURS[this.runs.length === 1 && number ? own : at % COLOURS.length];
        const title = this.runs.length > 1 ? `${run.run || run.name} · ${name}` : name;
        if (share) lines.push({ x, y: values, colour, dash, name: title, isRaw: true });
        lines.push({ x, y: smoothed(values, share), colour, dash, dots, name: title, isRaw: false, last: y.at(-1), broken: brokenAt(x, y) });
      }
    });
    return lines;
  }

  #data() {
    return uPlot.join(this.lines.map(({ x, y }) => [x, y]));
  }

  draw() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.lines?.length) return;
    const [ink, line] = [colourOf("--ink-3"), colourOf("--line")];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: '11px "Inter", system-ui, sans-serif' };
    const along = this.look.axis === "time" ? duration : short;
    const labels = { step: gettext("Step"), epoch: gettext("Epoch"), time: gettext("Time") };
    const options = {
      width: this.width,
      height: HEIGHT,
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, ...(this.look.range && { range: this.look.range }) }, y: this.look.log ? { distr: 3 } : {} },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map(along), space: 60 },
        { ...axis, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))), size: 60 },
      ],
      series: [
        { label: labels[this.look.axis], value: (_, at) => (at == null ? "–" : along(at)) },
        ...this.lines.map(({ name, colour, dash, dots, isRaw }) => ({
          label: name,
          class: isRaw ? "is-raw" : undefined,
          stroke: colourOf(colour),
          alpha: isRaw ? 0.25 : 1,
          dash,
          width: isRaw ? 1 : 1.75,
          points: { show: Boolean(dots), size: 7 },
          value: (_, value) => (value == null ? "–" : short(value)),
        })),
      ],
      hooks: { draw: [(plot) => this.#drawBreaks(plot)] },
    };
    this.box.replaceChildren();
    this.plot = new uPlot(options, this.#data(), this.box);
  }

  /** From there on the values are no numbers. */
  #drawBreaks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colourOf("--bad");
    ctx.font = `${11 * devicePixelRatio}px sans-serif`;
    ctx.setLineDash([3, 3]);
    for (const { broken } of this.lines) {
      if (broken === null || broken === undefined) continue;
      const x = Math.round(plot.valToPos(broken, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText("NaN", x + 4, bbox.top + 12 * devicePixelRatio);
    }
    ctx.restore();
  }

  /** The same in words, for whoever does not see the lines. */
  #say() {
    const ends = this.lines.filter(({ isRaw }) => !isRaw).map(({ name, last }) => `${name} ${last === null ? "NaN" : short(last)}`);
    const title = $("figcaption", this.figure).firstChild.data.trim();
    $("[data-said]", this.figure).textContent = fill(gettext("%(title)s by training step; at the end: %(last)s"), { title, last: ends.join(", ") });
  }
}

/** Where values stop being numbers to the end; null where the last one is one. */
function brokenAt(x, y) {
  if (y.at(-1) !== null) return null;
  return x[y.findLastIndex((value) => value !== null) + 1];
}

/** The values of a run by step, as a table. */
export function tableOf(run, keys) {
  const shown = keys.filter(({ key }) => run.curve.some((point) => key in point));
  const head = el("tr", {}, el("th", { scope: "col" }, gettext("Step")), ...shown.map(({ name }) => el("th", { scope: "col", className: "is-end" }, name)));
  const rows = run.curve.map((point) => {
    const cells = shown.map(({ key }) => el("td", { className: "is-end num" }, !(key in point) ? "" : point[key] === null ? "NaN" : short(point[key])));
    return el("tr", {}, el("th", { scope: "row", className: "num" }, String(point.step)), ...cells);
  });
  const caption = el("caption", { className: "sr-only" }, gettext("Training by step, newest first"));
  return el("table", { className: "plot-table" }, caption, el("thead", {}, head), el("tbody", {}, ...rows.reverse()));
}
