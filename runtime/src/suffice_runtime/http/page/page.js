// Page of a server: it polls the state of one model while it is visible, and keeps the history of the chosen period.

import * as figures from "./figures.js";
import * as policies from "./policies.js";
import { fetchJson, pathOf, token } from "./server.js";
import { element, when, write } from "./text.js";

const POLL = 2;
const LONGEST_WAIT = 30;
const POINTS = 300;
const MOST_POINTS = 900;
const SKEW = 30;

const byId = (id) => document.getElementById(id);

let models = [];
let model = null;
let history = null;
let ahead = 0; // seconds that the clock of the server is ahead of this one
let failures = 0;
let timer = 0;
let running = null;

function connection(text, lost = false) {
  write(byId("connection"), text);
  byId("connection").classList.toggle("lost", lost);
}

/** Ask for the token, in place of the data. */
function askForToken(text, wrong) {
  clearTimeout(timer);
  byId("controls").hidden = true;
  byId("content").hidden = true;
  byId("token-form").hidden = false;
  byId("token-text").classList.toggle("wrong", wrong);
  write(byId("token-text"), text);
  connection("Waiting for the token.");
  byId("token").focus();
}

function fail(error) {
  if (error.status === 401) {
    const sent = token.get() !== null;
    token.remove();
    models = [];
    askForToken(sent ? "The server does not accept this token. Enter the one that it was started with."
      : "This server has a token. Enter it to see the data; it is kept in this tab until the tab is closed.", sent);
    return;
  }
  if (error.status === 409) {
    connection("This server is one of several replicas behind a proxy, and has no page: each request would show another " +
      "replica. See the dashboard and the metrics of Ray.", true);
    return;
  }
  if (error.status === 404) models = [];
  failures += 1;
  const wait = Math.min(LONGEST_WAIT, POLL * 2 ** failures);
  connection(`${error.status ? `The server answers with an error (${error.status}: ${error.message})` : "No answer from the server"}. ` +
    `${byId("content").hidden ? "" : "The data shown are old. "}Next try in ${wait} s.`, true);
  schedule(wait);
}

function schedule(seconds) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, 1000 * seconds);
}

async function findModels(signal) {
  models = await fetchJson("v2/repository/index", { method: "POST", signal });
  const several = new Set(models.map(({ name }) => name)).size < models.length;
  byId("model").replaceChildren(...models.map(({ name, version }, i) =>
    element("option", { value: String(i) }, several ? `${name}, version ${version}` : name)));
  const same = models.findIndex(({ name, version }) => name === model?.name && version === model?.version);
  choose(Math.max(same, 0));
}

function choose(i) {
  byId("model").value = String(i);
  model = models[i];
  history = null;
}

const period = () => Number(byId("period").value);

function merge(found, now) {
  if (history === null) {
    history = found;
    return;
  }
  const from = history.time.findIndex((time) => time >= now - period());
  for (const [name, values] of Object.entries(found)) history[name] = [...history[name].slice(Math.max(from, 0)), ...values];
}

async function poll() {
  clearTimeout(timer);
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  try {
    if (!models.length) await findModels(signal);
    if (history?.time.length > MOST_POINTS) history = null;
    const since = history?.time.at(-1) ?? Math.max(0, Date.now() / 1000 + ahead - period());
    const state = await fetchJson(`${pathOf(model)}/state?since=${since}&points=${POINTS}`, { signal });
    const before = ahead;
    ahead = state.time - Date.now() / 1000;
    if (history === null && Math.abs(ahead - before) > SKEW) {
      schedule(0);
      return;
    }
    merge(state.history, state.time);
    show(state);
    failures = 0;
    schedule(POLL);
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

function show(state) {
  byId("token-form").hidden = true;
  byId("controls").hidden = false;
  byId("content").hidden = false;
  write(byId("state-path"), `/${pathOf(model)}/state`);
  document.title = `${state.watch.alarms.length ? `(${state.watch.alarms.length}) ` : ""}${state.name} – suffice-runtime`;
  if (state.ready) connection(`Live, every ${POLL} s`);
  else connection("This model has stopped or closes, and refuses requests.", true);
  figures.show(state, history, period());
  policies.show(state);
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("token").value.trim();
  byId("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    askForToken("A token has printable ASCII characters without spaces. Enter the one that the server was started with.", true);
    return;
  }
  token.set(given);
  poll();
});
byId("model").addEventListener("change", (event) => {
  choose(Number(event.target.value));
  poll();
});
byId("period").addEventListener("change", () => {
  history = null;
  poll();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    running?.abort();
    connection(`Paused while the page is hidden, at ${when(Date.now() / 1000, { timeStyle: "medium" })}`);
  } else if (byId("token-form").hidden) poll();
});

figures.prepare();
policies.prepare();
poll();
