// Charts in SVG, each with a legend, a name for screen readers, and a table of its values.

import { drawn, element, known, percent, table, when } from "./text.js";

const HEIGHT = 220;
const SIDE = { top: 10, right: 12, bottom: 26, left: 58 };
const ROWS = 40;
const STEPS = [5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800];

/** Values over time as lines. `format` writes a value; `log` makes the axis logarithmic. */
export class LineChart {
  constructor(figure, { format, log = false }) {
    this.format = format;
    this.log = log;
    this.legend = element("ul", { class: "legend" });
    this.svg = drawn("svg", { class: "chart", role: "img" });
    this.details = detailsOf(() => this.#tabulate());
    figure.append(this.legend, this.svg, this.details);
    this.name = figure.querySelector("figcaption").textContent;
    new ResizeObserver(() => this.data && this.#render()).observe(figure);
  }

  /**
   * Draw lines.
   * times: seconds since 1970, rising, of all values; begin, end: ends of the axis of time.
   * series: {name, kind, values}, with null for gaps; the last value is the present one.
   * marks: {time, kind, text}: vertical lines. low, high: ends of the axis of values.
   * breaks: places of values that no line leads to, as they are those of another policy; a set, or none.
   */
  draw(data) {
    this.data = data;
    this.#render();
    if (this.details.open) this.#tabulate();
  }

  #render() {
    const { begin, end, series, marks, low, high } = this.data;
    const width = Math.max(240, this.svg.parentElement.clientWidth);
    const scale = this.log ? Math.log : (value) => value;
    const x = linear(begin, end, SIDE.left, width - SIDE.right);
    const along = linear(scale(low), scale(high), HEIGHT - SIDE.bottom, SIDE.top);
    const y = (value) => along(scale(Math.min(Math.max(value, low), high)));
    const shown = series.filter(({ values }) => values.some(known));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("aria-label", this.#described(shown));
    this.svg.replaceChildren(
      ...this.#grid(width, y, low, high), ...timeAxis(begin, end, x, width),
      ...marks.filter(({ time }) => time >= begin).map((mark) => markLine(mark, x)),
      ...shown.flatMap((each) => this.#line(each, x, y, high)),
    );
    if (!shown.length) this.svg.append(note("no values in this period", width));
    const seen = marks.filter(({ time }) => time >= begin).map(({ kind, text }) => `${kind}|${text}`);
    const entries = [...shown.map(({ name, kind, values }) => `${kind}|${name}: ${this.format(latest(values))}`), ...new Set(seen)];
    if (this.entries !== entries.join()) {
      this.entries = entries.join();
      this.legend.replaceChildren(...entries.map(legendEntry));
    }
  }

  #grid(width, y, low, high) {
    const ticks = this.log ? decades(low, high) : niceTicks(low, high);
    return ticks.flatMap((value) => [
      drawn("line", { class: "grid", x1: SIDE.left, x2: width - SIDE.right, y1: y(value), y2: y(value) }),
      drawn("text", { x: SIDE.left - 8, y: y(value) + 4, "text-anchor": "end" }, this.format(value)),
    ]);
  }

  #line({ kind, values }, x, y, high) {
    const { times, breaks } = this.data;
    let path = "";
    let open = false;
    values.forEach((value, i) => {
      open &&= !breaks?.has(i);
      const inside = known(value) && (open || value <= high || values[i + 1] <= high);
      if (inside) path += `${open ? "L" : "M"}${x(times[i]).toFixed(1)},${y(value).toFixed(1)}`;
      open = inside && value <= high;
    });
    const last = values.at(-1);
    const line = drawn("path", { class: `series ${kind}`, d: path });
    if (!known(last) || last > high) return [line];
    return [line, drawn("circle", { class: `dot ${kind}`, cx: x(times.at(-1)), cy: y(last), r: 3.5 })];
  }

  #described(shown) {
    const parts = shown.map(({ name, values }) => `${name} ${this.format(latest(values))}`);
    return `${this.name}. ${parts.length ? `At present: ${parts.join(", ")}` : "No values in this period"}.`;
  }

  #tabulate() {
    if (!this.data) return;
    const { times, series, begin } = this.data;
    const shown = series.filter(({ values }) => values.some(known));
    const places = times.map((_, i) => i).filter((i) => times[i] >= begin).reverse();
    const step = Math.max(1, Math.ceil(places.length / ROWS));
    const rows = places.filter((_, i) => i % step === 0)
      .map((i) => [when(times[i]), ...shown.map(({ values }) => this.format(values[i]))]);
    const caption = step > 1 ? `${this.name}: each ${step}th point, the latest first` : `${this.name}, the latest first`;
    show(this.details, table(caption, ["Time", ...shown.map(({ name }) => name)], rows), this.name);
  }
}

/** Live shares of exits as bars, with the stated share and its tolerance. */
export class ShareChart {
  constructor(figure) {
    this.legend = element("ul", { class: "legend" }, ...["bar|live", "stated|on the validation data",
      "band|tolerance"].map(legendEntry));
    this.svg = drawn("svg", { class: "chart", role: "img" });
    this.details = detailsOf(() => this.#tabulate());
    figure.append(this.legend, this.svg, this.details);
    new ResizeObserver(() => this.data && this.#render()).observe(figure);
  }

  /** Draw shares: {live: array or null, stated: array, tolerance}. */
  draw(data) {
    this.data = data;
    this.#render();
    if (this.details.open) this.#tabulate();
  }

  #render() {
    const { live, stated, tolerance } = this.data;
    const width = Math.max(240, this.svg.parentElement.clientWidth);
    const row = 34;
    const height = row * stated.length + 24;
    const x = linear(0, 1, SIDE.left, width - SIDE.right - 44);
    const clip = (share) => x(Math.min(Math.max(share, 0), 1));
    const nodes = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
      drawn("line", { class: "grid", x1: x(share), x2: x(share), y1: 0, y2: height - 22 }),
      drawn("text", { x: x(share), y: height - 6, "text-anchor": "middle" }, percent(share)),
    ]);
    stated.forEach((share, k) => {
      const top = k * row;
      const [from, to] = [clip(share - tolerance), clip(share + tolerance)];
      nodes.push(drawn("text", { class: "name", x: SIDE.left - 8, y: top + 21, "text-anchor": "end" }, `exit ${k}`),
        drawn("rect", { class: "band", x: from, y: top + 3, width: to - from, height: row - 8 }));
      if (live) nodes.push(drawn("rect", { class: "bar", x: x(0), y: top + 10, width: clip(live[k]) - x(0), height: row - 22 }));
      nodes.push(drawn("line", { class: "stated", x1: x(share), x2: x(share), y1: top + 3, y2: top + row - 5 }));
      if (live) nodes.push(drawn("text", { class: "name", x: Math.max(clip(live[k]), to) + 6, y: top + 21 }, percent(live[k])));
    });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", `Share of answers at each exit. ${stated.map((share, k) =>
      `Exit ${k}: ${live ? `live ${percent(live[k])}, ` : ""}stated ${percent(share)}`).join(". ")}.`);
    this.svg.replaceChildren(...nodes);
  }

  #tabulate() {
    if (!this.data) return;
    const { live, stated, counts } = this.data;
    const rows = stated.map((share, k) =>
      [`Exit ${k}`, String(counts[k]), percent(live?.[k]), percent(share), live ? points(live[k] - share) : "–"]);
    const head = ["Exit", "Observed answers", "Live share", "Stated share", "Difference in points"];
    show(this.details, table("Share of answers at each exit", head, rows), "Share of answers at each exit");
  }
}

const points = (difference) => `${difference < 0 ? "−" : "+"}${Math.abs(100 * difference).toFixed(1)}`;
const latest = (values) => values.findLast(known) ?? null;
const linear = (a, b, from, to) => (value) => from + ((value - a) / (b - a || 1)) * (to - from);

function detailsOf(fill) {
  const details = element("details", {}, element("summary", {}, "Table"));
  details.addEventListener("toggle", () => details.open && fill());
  return details;
}

/** Put a table into its details, in a region that scrolls by keyboard, which stays the same element. */
function show(details, content, name) {
  details.region ??= element("div", { class: "scroll tall", role: "region", "aria-label": `Table: ${name}`, tabindex: "0" });
  if (!details.region.isConnected) details.append(details.region);
  details.region.replaceChildren(content);
}

function legendEntry(entry) {
  const [kind, text] = entry.split(/\|(.*)/s);
  const swatch = drawn("svg", { width: 26, height: 12, "aria-hidden": "true" });
  if (kind === "bar") swatch.append(drawn("rect", { class: "bar", x: 0, y: 2, width: 24, height: 8 }));
  else if (kind === "band") swatch.append(drawn("rect", { class: "band", x: 0, y: 0, width: 24, height: 12 }));
  else if (kind.includes("-mark")) swatch.append(drawn("line", { class: kind, x1: 12, x2: 12, y1: 0, y2: 12 }));
  else if (kind === "stated") swatch.append(drawn("line", { class: "stated", x1: 12, x2: 12, y1: 0, y2: 12 }));
  else swatch.append(drawn("line", { class: `series ${kind}`, x1: 1, x2: 25, y1: 6, y2: 6 }));
  return element("li", {}, swatch, text);
}

function markLine({ time, kind, text }, x) {
  return drawn("line", { class: kind, x1: x(time), x2: x(time), y1: SIDE.top, y2: HEIGHT - SIDE.bottom }, drawn("title", {}, text));
}

function note(text, width) {
  return drawn("text", { class: "empty", x: width / 2 + SIDE.left / 2, y: HEIGHT / 2, "text-anchor": "middle" }, text);
}

/** Return round values from low to high, about five of them. */
export function niceTicks(low, high) {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((value) => value >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Return powers of ten from low to high, at most six of them. */
export function decades(low, high) {
  const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const step = Math.max(1, Math.ceil((to - from + 1) / 6));
  const ticks = [];
  for (let power = from; power <= to; power += step) ticks.push(10 ** power);
  return ticks;
}

function timeAxis(begin, end, x, width) {
  const most = Math.max(2, Math.floor((width - SIDE.left) / 95));
  const step = STEPS.find((seconds) => (end - begin) / seconds <= most) ?? STEPS.at(-1);
  const zone = 60 * new Date(1000 * end).getTimezoneOffset();
  const options = step >= 86400 ? { day: "numeric", month: "short" }
    : { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
  const nodes = [drawn("line", {
    class: "axis", x1: SIDE.left, x2: width - SIDE.right, y1: HEIGHT - SIDE.bottom, y2: HEIGHT - SIDE.bottom,
  })];
  for (let time = Math.ceil((begin - zone) / step) * step + zone; time <= end; time += step) {
    if (x(time) > width - SIDE.right - 18) break;
    nodes.push(
      drawn("line", { class: "axis", x1: x(time), x2: x(time), y1: HEIGHT - SIDE.bottom, y2: HEIGHT - SIDE.bottom + 4 }),
      drawn("text", { x: x(time), y: HEIGHT - 8, "text-anchor": "middle" }, when(time, options)));
  }
  return nodes;
}
