// Policies of the bundle: a slider that shows what validation promises at each, and the command that puts one in force.

import { number, percent, table, write } from "./text.js";

const byId = (id) => document.getElementById(id);
const slider = () => byId("policy");

let state;
let shown = "";

/** Add the handlers; once. */
export function prepare() {
  slider().addEventListener("input", showSelected);
  byId("copy").addEventListener("click", copy);
}

/** Show the policies of a model; the slider starts at the policy in force, and is left where the reader puts it. */
export function show(next) {
  const key = `${next.name} ${next.version} ${next.policies.length}`;
  state = next;
  if (key !== shown) {
    shown = key;
    slider().max = String(state.policies.length - 1);
    slider().disabled = state.policies.length < 2;
    slider().value = String(state.policy.index ?? nearest(state));
    const [cheapest, dearest] = byId("ends").children;
    write(cheapest, percent(state.policies[0].fraction));
    write(dearest, state.policies.length > 1 ? percent(state.policies.at(-1).fraction) : "");
  }
  write(byId("policies-text"), introduction(state));
  showSelected();
}

function nearest({ policies, policy }) {
  const distance = (i) => Math.abs(policies[i].fraction - policy.fraction);
  return policies.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0);
}

function introduction({ policies, policy }) {
  const number = policies.length;
  const which = policy.index === null ? "The one in force is none of them." : `Number ${policy.index + 1} is in force.`;
  if (number === 1) return `The bundle holds a single policy. ${which} Others are exported with policies=….`;
  return `The bundle holds ${number} policies. ${which} The slider shows what each promises on the validation data; it does not change the policy in force.`;
}

function showSelected() {
  const i = Number(slider().value);
  const { policies, policy: current } = state;
  const selected = policies[i];
  const text = `Policy ${i + 1} of ${policies.length}: expected cost ${percent(selected.fraction)}${i === current.index ? ", in force" : ""}`;
  slider().setAttribute("aria-valuetext", text);
  write(byId("policy-text"), text);
  const rows = [
    ["Expected cost, of that of the last exit", percent(selected.fraction), percent(current.fraction)],
    ["Promise", promised(selected.policy.promise), promised(current.policy.promise)],
    ["Prediction sets", sets(selected.policy.sets), sets(current.policy.sets)],
    ...selected.policy.shares.map((share, k) => [`Share of exit ${k}`, percent(share), percent(current.policy.shares[k])]),
  ].filter(([name, ...cells]) => name !== "Prediction sets" || cells.some((cell) => cell !== "none"));
  const key = JSON.stringify([state.name, state.version, rows]);
  const box = byId("policy-table");
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(table("On the validation data", ["Value", "Selected", "In force"], rows));
    write(byId("copied"), "");
  }
  showCommand(selected.policy);
}

function promised(promise) {
  if (promise === null) return "none";
  const sure = promise.confidence === null ? "in expectation" : `confidence ${percent(promise.confidence)}`;
  return `${promise.loss} loss ≤ ${number(promise.max_loss)}, ${sure}`;
}

const sets = (rule) => (rule === null ? "none" : `${rule.method}, coverage ${percent(rule.coverage)}`);

function showCommand(policy) {
  const url = new URL(`v1/models/${encodeURIComponent(state.name)}/policy`, document.baseURI).href;
  const body = JSON.stringify(policy).replaceAll("'", "'\\''");
  const command = [
    `curl --fail-with-body '${url}' \\`,
    "  --header \"Authorization: Bearer $SUFFICE_RUNTIME_TOKEN\" \\",
    "  --header 'Content-Type: application/json' \\",
    `  --data '${body}'`,
  ].join("\n");
  if (byId("command").value !== command) byId("command").value = command;
  byId("command-box").hidden = !state.latest;
  write(byId("command-text"), (state.token
    ? "Set the variable SUFFICE_RUNTIME_TOKEN to the token first; this page does not write it into the command."
    : "This server has no token and refuses new policies; start it with --token-file to allow them.") +
    " The evidence starts anew with a new policy.");
}

async function copy() {
  const area = byId("command");
  let done = false;
  try {
    await navigator.clipboard.writeText(area.value);
    done = true;
  } catch { // without a clipboard, as on pages over plain HTTP
    area.select();
    done = document.execCommand("copy");
  }
  write(byId("copied"), done ? "Copied." : "The command is selected; copy it with the keyboard.");
}
