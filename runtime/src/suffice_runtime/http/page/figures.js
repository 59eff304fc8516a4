// Sections about what is live: alarms, promise, traffic and exits.

import { LineChart, ShareChart } from "./charts.js";
import { atMost, count, duration, element, known, number, percent, plural, span, table, when, write } from "./text.js";

const byId = (id) => document.getElementById(id);

const ALARMS = {
  loss: {
    title: "Loss alarm",
    text: "answers differed from those of the last exit more often than promised. The next safer policy of the " +
      "certified sequence was put in force, if there was one. Check whether the inputs have changed, and choose a new " +
      "policy from recent data.",
  },
  exits: {
    title: "Exits alarm",
    text: "the shares of the exits are not those on the validation data, beyond the tolerance. The inputs have " +
      "probably changed: the mean cost may be another one than expected, and so may the loss.",
  },
};

const LATEST = 5;

let charts;

/** Make the charts; once. */
export function prepare() {
  charts = {
    loss: new LineChart(byId("loss-chart"), { format: percent }),
    evidence: new LineChart(byId("evidence-chart"), { format: number, log: true }),
    rate: new LineChart(byId("rate-chart"), { format: number }),
    latency: new LineChart(byId("latency-chart"), { format: duration, log: true }),
    exits: new ShareChart(byId("exits-chart")),
  };
}

/** Show the state of a model with the history that is known so far. */
export function show(state, history, period) {
  showAlarms(state);
  showPromise(state);
  showTraffic(state);
  showExits(state);
  drawHistory(state, history, period);
}

function figure(name, text, small = "") {
  const node = document.querySelector(`[data-value="${name}"]`);
  if (node.textContent === text + small) return;
  node.replaceChildren(text, ...(small ? [element("small", {}, small)] : []));
}

function showAlarms({ watch, name }) {
  const { alarms } = watch;
  const some = `${plural(alarms.length, "alarm")} since the start`;
  const last = alarms.at(-1);
  write(byId("alarms-text"), alarms.length
    ? `${some} of ${name}. Latest: ${ALARMS[last.kind].title.toLowerCase()} at ${when(last.time)}.`
    : "No alarms since the start.");
  const key = `${name} ${alarms.length} ${last?.time}`;
  const list = byId("alarms");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const entries = alarms.toReversed();
  list.replaceChildren(...entries.slice(0, LATEST).map((alarm) =>
    element("li", {}, element("strong", {}, ALARMS[alarm.kind].title), `, ${when(alarm.time)}. ${found(alarm)}`)));
  const earlier = entries.slice(LATEST);
  byId("earlier").hidden = !earlier.length;
  byId("earlier").replaceChildren(element("summary", {}, `${earlier.length} earlier`),
    element("ul", {}, ...earlier.map((alarm) => element("li", {}, `${ALARMS[alarm.kind].title}, ${when(alarm.time)}. ${found(alarm)}`))));
  const kinds = Object.keys(ALARMS).filter((kind) => alarms.some((alarm) => alarm.kind === kind));
  byId("meanings").replaceChildren(...kinds.map((kind) =>
    element("p", {}, element("strong", {}, `${ALARMS[kind].title}: `), ALARMS[kind].text)));
}

const found = ({ kind, observations, policy_version: version }) =>
  `After ${plural(observations, kind === "loss" ? "audited answer" : "observed answer")} under policy ${version}.`;

function showPromise({ watch, policy, kind }) {
  const { promise, alpha } = watch;
  write(byId("promise-text"), promiseText(promise, policy.policy.promise));
  write(byId("promise-finding"), findingText(watch, kind));
  figure("loss", percent(watch.loss));
  figure("bound", percent(watch.bound), `probability ${percent(1 - alpha)}`);
  figure("promised", promise ? percent(promise.max_loss) : "–", promise ? "" : "no promise to check");
  figure("audited", count(watch.audited), watch.waiting ? `${count(watch.waiting)} more wait` : "");
  figure("evidence", number(watch.e_value), promise ? `alarm at ${number(watch.e_limit)}` : "");
  figure("step", promise ? `${watch.step + 1} of ${watch.steps}` : "–", `policy number ${watch.policy_version}`);
  write(byId("promise-note"), "The loss of an answer is 1 if it differs from the answer of the last exit, and 0 if not. " +
    "It is measured on a random part of the requests, without labels. The bound holds at all times at once. " +
    "Evidence is an e-value: if the promise holds, it ever reaches its limit with a probability of at most " +
    `${percent(promise ? 1 / watch.e_limit : alpha)}. Loss, bound and evidence are those of the policy in force, and ` +
    "start anew with each policy; bounds of few answers, which are near 1, are above the chart." + skippedText(watch));
}

function skippedText({ skipped, unobserved }) {
  const parts = [];
  if (skipped) parts.push(` ${plural(skipped, "request")} chosen for an audit had no room for it.`);
  if (unobserved) parts.push(` Requests with a policy of their own, a deadline or a cap are not observed: ${count(unobserved)} so far.`);
  return parts.join("");
}

/** Return what the policy in force promises, in words. */
export function promiseText(watched, stated) {
  if (watched) return `At most ${percent(watched.max_loss)} of the answers differ from those of the last exit. This is promised ${sureness(watched)}.`;
  if (stated) return `The policy in force bounds the loss “${stated.loss}” by ${number(stated.max_loss)}, ${sureness(stated)}. This needs labels and is not checked here.`;
  return "The policy in force makes no promise on the loss.";
}

const sureness = ({ confidence }) => (confidence === null ? "in expectation" : `with a confidence of ${percent(confidence)}`);

function findingText({ promise, audited, bound, e_value: evidence, e_limit: limit, step, steps, alpha }, kind) {
  if (kind === "regression") return "Answers of a regression are not audited.";
  if (!audited) return "No answer under the policy in force has been audited yet.";
  if (!promise) return "The loss is measured all the same; there is no alarm on it.";
  const stepped = step ? ` Alarms have moved the policy ${step} of ${plural(steps - 1, "step")} toward the safest.` : "";
  if (evidence >= limit) return `There is an alarm for the last policy of the sequence: its promise does not hold.${stepped}`;
  if (bound <= promise.max_loss) return `So far the promise holds: with a probability of ${percent(1 - alpha)}, the mean loss has been at most ${percent(bound)}.${stepped}`;
  return `The answers audited so far neither confirm nor refute the promise.${stepped}`;
}

function showTraffic({ statistics, recent, watch }) {
  const { load } = statistics;
  figure("examples-per-second", number(recent.examples_per_second));
  figure("requests-per-second", number(recent.requests_per_second));
  figure("median", atMost(recent.median_seconds));
  figure("p99", atMost(recent.p99_seconds));
  figure("cost", percent(watch.cost), `expected ${percent(watch.expected_cost)}`);
  figure("open", count(load.rows), `in ${plural(load.requests, "request")}`);
  write(byId("traffic-note"), `Rates and latencies are those of the last ${span(recent.seconds)}. Latencies are edges of the ` +
    "buckets of a histogram. Costs are multiply-adds as a fraction of those of the last exit.");
  byId("stages").replaceChildren(stageTable(statistics));
  byId("outcomes").replaceChildren(outcomeTable(statistics));
}

function stageTable({ load, stage_seconds: seconds, batch_sizes: sizes }) {
  const rows = load.waiting.map((waiting, k) => {
    const runs = seconds[k].counts.reduce((a, b) => a + b, 0);
    const mean = (histogram) => (runs ? histogram.total / runs : null);
    return [String(k), count(waiting), count(runs), number(mean(sizes[k])), duration(mean(seconds[k]))];
  });
  return table("Queues and stages", ["Stage", "Waiting examples", "Runs", "Mean batch", "Mean time"], rows);
}

function outcomeTable(statistics) {
  const rows = [
    ["Requests answered", statistics.requests], ["Requests refused: full or closed", statistics.refused],
    ["Requests not valid", statistics.invalid], ["Requests cancelled", statistics.cancelled],
    ["Examples answered", statistics.examples], ["Examples failed", statistics.failed],
    ["Examples answered because of a deadline", statistics.late], ["Examples answered because of a cap", statistics.capped],
  ].map(([name, value]) => [name, count(value)]);
  return table(`Since the start, ${span(statistics.seconds)} ago`, ["What", "Number"], rows);
}

function showExits({ watch }) {
  const { exits, shares, tolerance, exits_e_value: evidence, exits_e_limit: limit, alpha } = watch;
  const total = exits.reduce((a, b) => a + b, 0);
  const found = evidence === null
    ? "The shares are not watched, as thresholds follow the inputs."
    : `A difference of up to ${number(100 * tolerance)} percentage points is no reason for an alarm. Evidence of a greater ` +
      `one: ${number(evidence)}, with an alarm at ${number(limit)}, which is false with a probability of at most ${percent(alpha)}.`;
  write(byId("exits-text"), `${count(total)} observed answers under the policy in force, beside the shares on the validation data. ${found}`);
  charts.exits.draw({ live: total ? exits.map((n) => n / total) : null, stated: shares, tolerance, counts: exits });
}

function drawHistory(state, history, period) {
  const { watch, recent, time: end } = state;
  const times = [...history.time, end];
  const begin = Math.min(Math.max(end - period, times[0]), end - 60);
  const marks = [
    ...history.policy_version.flatMap((version, i) => (i && version !== history.policy_version[i - 1]
      ? [{ time: history.time[i], kind: "policy-mark", text: "new policy" }] : [])),
    ...watch.alarms.map(({ kind, time }) => ({ time, kind: `alarm-mark ${kind}`, text: ALARMS[kind].title.toLowerCase() })),
  ];
  const of = (name, present) => [...history[name], present];
  const versions = of("policy_version", watch.policy_version);
  const breaks = new Set(versions.map((_, i) => i).filter((i) => i && versions[i] !== versions[i - 1]));
  const common = { times, begin, end, marks };
  drawLoss({ ...common, breaks }, of("loss", watch.loss), of("bound", watch.bound), watch.promise);
  drawEvidence({ ...common, breaks }, watch, (name) => of(name, watch[name]));
  const rates = of("examples_per_second", recent.examples_per_second);
  charts.rate.draw({ ...common, low: 0, high: 1.1 * Math.max(1, ...rates), series: [{ name: "examples per second", kind: "first", values: rates }] });
  drawLatency(common, of("median_seconds", recent.median_seconds), of("p99_seconds", recent.p99_seconds));
}

/** Draw the loss; the axis ends where the promise and the present values are well inside, as bounds of few answers are near 1. */
function drawLoss(common, loss, bound, promise) {
  const promised = promise?.max_loss ?? 0;
  const present = Math.max(loss.at(-1) ?? 0, bound.at(-1) ?? 0);
  const past = Math.max(0, ...loss.filter(known));
  const high = Math.min(1.02, Math.max(2.5 * promised, 1.25 * present, Math.min(1.25 * past, 5 * promised)) || 1.02);
  const series = [{ name: "loss", kind: "first", values: loss }, { name: "upper bound", kind: "second", values: bound }];
  if (promise) series.push({ name: "promised at most", kind: "limit", values: common.times.map(() => promised) });
  charts.loss.draw({ ...common, low: 0, high, series });
}

function drawEvidence(common, watch, of) {
  const series = [
    { name: "of a broken promise", kind: "first", values: of("e_value") },
    { name: "its limit", kind: "limit", values: of("e_limit") },
    { name: "of other exits", kind: "second", values: of("exits_e_value") },
    { name: "its limit", kind: "other", values: of("exits_e_limit") },
  ];
  const every = series.flatMap(({ values }) => values).filter((value) => known(value) && value > 0);
  const high = Math.min(1e6, 3 * Math.max(10, ...every));
  charts.evidence.draw({ ...common, low: Math.max(1e-3, Math.min(0.1, ...every)), high, series });
}

function drawLatency(common, median, p99) {
  const every = [...median, ...p99].filter(known);
  const low = Math.min(1e-3, ...every) / 1.5;
  charts.latency.draw({
    ...common, low, high: 2 * Math.max(0.1, ...every),
    series: [{ name: "median at most", kind: "first", values: median }, { name: "99th percentile at most", kind: "second", values: p99 }],
  });
}
