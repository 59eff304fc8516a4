// Numbers, times and nodes: how values are written, and elements without markup in strings.

const LOCALE = "en";
const NONE = "–";
const PRECISE = new Intl.NumberFormat(LOCALE, { maximumSignificantDigits: 3 });
const WHOLE = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });

/** Return whether a value of the server is a number that is known; "inf" stands for infinity. */
export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Return a number with three significant digits. */
export function number(value) {
  if (value === "inf") return "above all limits";
  if (!known(value)) return NONE;
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) {
    const [digits, power] = value.toExponential(1).split("e");
    return `${digits.replace(/\.0$/, "")} × 10${superscript(Number(power))}`;
  }
  return PRECISE.format(value);
}

const superscript = (power) => String(power).replace(/./g, (sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻");

/** Return a whole number. */
export const count = (value) => (known(value) ? WHOLE.format(value) : NONE);

/** Return a number of things. */
export const plural = (value, thing) => `${count(value)} ${thing}${value === 1 ? "" : "s"}`;

/** Return a fraction in percent. */
export function percent(value) {
  if (!known(value)) return NONE;
  const scaled = 100 * value;
  return `${scaled !== 0 && Math.abs(scaled) < 0.001 ? "< 0.001" : PRECISE.format(scaled)}%`;
}

/** Return a duration, given in seconds. */
export function duration(value) {
  if (!known(value)) return NONE;
  return value < 1 ? `${PRECISE.format(1000 * value)} ms` : `${PRECISE.format(value)} s`;
}

/** Return the upper edge of the bucket of a histogram that holds a quantile. */
export function atMost(value) {
  if (value === "inf") return "> 60 s";
  return known(value) ? `≤ ${duration(value)}` : NONE;
}

/** Return the time that the server has run. */
export function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const from = parts.findIndex(([size]) => seconds >= size);
  if (from < 0) return "0 s";
  let rest = seconds;
  return parts.slice(from, from + 2).map(([size, unit]) => {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    return whole ? `${whole} ${unit}` : "";
  }).join(" ").trim();
}

/** Return a time of the server, given in seconds since 1970, in the zone of the reader. */
export const when = (seconds, options = { dateStyle: "medium", timeStyle: "medium" }) =>
  new Intl.DateTimeFormat(LOCALE, { hourCycle: "h23", ...options }).format(new Date(1000 * seconds));

/** Return an element with attributes and children, which are elements or text. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Return an element of SVG. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Replace the text of an element, if it is another one, so that screen readers are not disturbed. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Return a table; the first cell of each row names it. */
export function table(caption, head, rows) {
  const header = element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map(([name, ...cells]) =>
    element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((text) => element("td", {}, text))));
  return element("table", {},
    element("caption", {}, caption), element("thead", {}, header), element("tbody", {}, ...body));
}
