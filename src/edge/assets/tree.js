/** The tree page: asks the node, listens to its events, and hands what it knows to the view. */

import { readEvents } from "./sse.js";
import { OrderDialog } from "./tree_order.js";
import { partsOf } from "./tree_parts.js";
import { View } from "./tree_view.js";
import { eventLine, refusal, stateOf, stateWord } from "./tree_words.js";

const POLL_MS = 2000;
const ANSWER_MS = 5000;
const ORDER_MS = 60_000;
/** Between two tries to listen: doubled up to the second. */
const LISTEN_AGAIN_MS = [500, 8000];
/** Of the tab alone: gone with it, and never in an address. */
const KEY_STORE = "blyan-admin-key";

const $ = (id) => document.getElementById(id);
const view = new View();
const dialog = new OrderDialog(order);
let key = sessionStorage.getItem(KEY_STORE);
let parts = [];
let exits = new Map();
let exitsOf = "";
let lostSince = null;
let listening = null;
let live = false;

class Refused extends Error {
  constructor(status, error) {
    super(refusal(status, error).join(" "));
    this.status = status;
    this.error = error;
  }
}

/** One request; throws `Refused` for an answer that is none of 2xx, anything else where the node was not reached. */
async function ask(path, { method = "GET", body, timeout = ANSWER_MS, withKey = key } = {}) {
  const headers = withKey ? { "x-api-key": withKey } : {};
  if (body) headers["content-type"] = "application/json";
  const signal = AbortSignal.timeout(timeout);
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refused(response.status, told.error);
}

const json = async (path, options) => (await ask(path, options)).json();
const address = (path) => path.split("/").map(encodeURIComponent).join("/");

/** Calls made while one runs are one call more after it. */
function coalesced(work) {
  let running = null;
  let again = false;
  const run = async () => {
    do {
      again = false;
      await work();
    } while (again);
    running = null;
  };
  return () => {
    again = Boolean(running);
    running ??= run();
    return running;
  };
}

const refresh = coalesced(async () => {
  const [known, fault] = await read().then((known) => [known, null], (fault) => [null, fault]);
  if (known) {
    lostSince = null;
    show(...known);
  } else {
    lostSince ??= Date.now();
    view.lost(lostSince, fault instanceof Refused ? fault.message : null);
  }
  view.link(lostSince ? "unavailable" : live ? "ok" : key ? "degraded" : "unknown");
});

async function read() {
  const known = await Promise.all([
    json("/supervision/tree"), json("/monitoring/health"), key ? decisions() : null,
  ]);
  await readExits(known[0]);
  return known;
}

/** What was decided; `null` where the orchestrator does not answer. */
async function decisions() {
  const used = key;
  try {
    return await json("/security/dashboard");
  } catch (fault) {
    if (!(fault instanceof Refused)) throw fault;
    if (fault.status === 401 && used === key) lock(fault.message);
    return null;
  }
}

/** Endings by part and reason are on the metrics page, which is long: read again only after something ended. */
async function readExits(tree) {
  const ends = JSON.stringify(tree, (name, value) => (name === "mailbox_depth" ? undefined : value));
  if (ends === exitsOf) return;
  const text = await (await ask("/metrics")).text();
  exits = new Map();
  for (const [, part, reason, count] of text.matchAll(/^blyan_supervisors_exits_total\{child="([^"]*)",reason="([^"]*)"\} (\d+)/gm)) {
    exits.set(part, [...(exits.get(part) ?? []), [reason, Number(count)]]);
  }
  exitsOf = ends;
}

function show(tree, health, dashboard) {
  const before = new Map(parts.map((part) => [part.id, stateOf(part)]));
  parts = partsOf(tree, dashboard, exits);
  view.show(parts, health, dashboard, Boolean(key));
  const changed = parts.filter((part) => before.has(part.id) && before.get(part.id) !== stateOf(part));
  view.changed(changed.map((part) => `${part.id} is now ${stateWord(stateOf(part))}`));
}

/** Follows the node's events for as long as there is a key. */
async function listen() {
  const mine = (listening = new AbortController());
  let pause = LISTEN_AGAIN_MS[0];
  while (!mine.signal.aborted) {
    try {
      const response = await fetch("/security/events", { headers: { "x-api-key": key }, signal: mine.signal });
      if (response.ok) {
        live = true;
        pause = LISTEN_AGAIN_MS[0];
        refresh();
        await readEvents(response.body, happened);
      }
    } catch {
      // Not reached, or ended in the middle: again after the pause.
    }
    if (listening === mine) live = false;
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(2 * pause, LISTEN_AGAIN_MS[1]);
  }
}

function happened(name, data) {
  // An alert is told by its record and by itself.
  if (data.action !== "alert") view.happened(...eventLine(name, data));
  refresh();
}

/** Carries an order out; throws what `ask` throws. */
async function order(decision, part, reason, force) {
  const path = { quarantine: "quarantine_node", recover: "recover_node", failover: "failover" }[decision];
  const body = { reason, ...(force && { force }) };
  try {
    const decided = await json(`/security/${path}/${address(part.id)}`, { method: "POST", body, timeout: ORDER_MS });
    view.notice(decided.changed ? `Done: ${decision} of ${part.id}, record ${decided.record} of the audit log.` : `${part.id} was so before: nothing changed.`);
  } finally {
    await refresh();
  }
}

function unlock(given) {
  key = given;
  sessionStorage.setItem(KEY_STORE, key);
  view.locked(false);
  listen();
}

function lock(why) {
  key = null;
  sessionStorage.removeItem(KEY_STORE);
  listening?.abort();
  live = false;
  view.locked(true, why);
}

$("unlock").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) return view.locked(true, "A key has letters, digits and signs only.");
  try {
    // Asked for once, so that a mistyped key counts as one failed try.
    const dashboard = await json("/security/dashboard", { withKey: given });
    $("key").value = "";
    unlock(given);
    for (const alert of dashboard.alerts) view.happened(...eventLine("alert", alert));
    await refresh();
  } catch (fault) {
    view.locked(true, fault instanceof Refused ? fault.message : "The node was not reached.");
  }
});

$("lock").addEventListener("click", () => {
  lock();
  refresh();
  $("key").focus();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-order]");
  const part = button && parts.find((one) => one.id === button.dataset.part);
  if (!part) return;
  view.notice("");
  dialog.open(button.dataset.order, part, parts);
});

if (key) unlock(key);
for (;;) {
  await refresh();
  await new Promise((done) => setTimeout(done, POLL_MS));
}
