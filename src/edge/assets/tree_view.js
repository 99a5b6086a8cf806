/** What stands on the tree page. Elements are kept and changed in place, so that focus and reading position stay. */

import { problemsOf } from "./tree_parts.js";
import { adviceOf, ago, clock, orderVerb, ordersFor, span, stateOf, stateWord, whyOf } from "./tree_words.js";

const HAPPENED_MAX = 60;
const LINKS = { ok: "live", unknown: "every 2 s", degraded: "every 2 s, no events", unavailable: "not reached" };

const $ = (id) => document.getElementById(id);

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** One child of `parent` for each item, in order; a child that is there already for the same key is kept. */
function reconcile(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    const key = keyOf(item);
    const child = known.get(key) ?? create(item);
    known.delete(key);
    child.dataset.key = key;
    update(child, item);
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  known.forEach((child) => child.remove());
}

function orderButton(className = "") {
  return make("button", { type: "button", className });
}

/** The same button for whatever order comes first, so that focus is not lost when the state changes. */
function offer(button, decision, part) {
  button.hidden = !decision;
  button.dataset.order = decision ?? "";
  button.dataset.part = part.id;
  put(button, decision ? `${orderVerb(decision)} …` : "");
  button.setAttribute("aria-label", decision ? `${orderVerb(decision)} ${part.id}` : "");
  button.setAttribute("aria-haspopup", "dialog");
}

function cell(row, name, label) {
  const made = make("td", { className: name });
  made.setAttribute("role", "cell");
  made.dataset.label = label;
  row.append(made);
  return made;
}

function createRow() {
  const row = make("tr");
  row.setAttribute("role", "row");
  const head = make("th", { scope: "row", className: "part" }, make("span", { className: "above" }), make("span", { className: "name" }));
  head.setAttribute("role", "rowheader");
  row.append(head);
  cell(row, "state", "State").append(make("span", { className: "badge" }));
  cell(row, "number generation", "Generation");
  cell(row, "restarts", "Restarts").append(make("b"), make("small"));
  cell(row, "number waiting", "Waiting");
  cell(row, "why", "Why");
  cell(row, "act", "Actions").append(orderButton(), orderButton());
  return row;
}

function updateRow(row, part) {
  const at = part.id.lastIndexOf("/") + 1;
  const [above, name] = row.querySelector(".part").children;
  // Read aloud is the whole path; to the eye the indentation says what is above, where there is room for one.
  row.querySelector(".part").setAttribute("aria-label", part.id);
  put(above, part.id.slice(0, at));
  put(name, part.id.slice(at));
  row.dataset.level = part.level;
  row.dataset.kind = part.kind;
  row.dataset.state = stateOf(part);
  put(row.querySelector(".badge"), stateWord(stateOf(part)));
  put(row.querySelector(".generation"), part.generation === null ? "–" : String(part.generation));
  const [counted, ends] = row.querySelector(".restarts").children;
  put(counted, String(part.restarts_in_window));
  put(ends, part.exits.map(([reason, count]) => ` ${count}\u00a0${reason.replaceAll("_", "\u00a0")}`).join(","));
  put(row.querySelector(".waiting"), part.kind === "worker" ? String(part.mailbox_depth) : "–");
  put(row.querySelector(".why"), whyOf(part, Date.now()));
  const [first, second] = row.querySelectorAll(".act button");
  const orders = ordersFor(part);
  offer(first, orders[0], part);
  offer(second, orders[1], part);
}

function createProblem() {
  return make("li", {}, make("p", {}, make("strong"), " ", make("span")), make("p", { className: "advice" }), orderButton("first"));
}

function updateProblem(item, { part, unlocked }) {
  const [what, advice, button] = item.children;
  put(what.firstChild, `${part.id} is ${stateWord(stateOf(part))}.`);
  const why = whyOf(part, Date.now());
  put(what.lastChild, why);
  put(advice, adviceOf(part, unlocked));
  offer(button, ordersFor(part)[0], part);
}

function verdict(health, problems, parts) {
  const serving = `${health.replicas_running} of ${health.replicas_configured} replicas serve`;
  const load = `${health.requests} ${health.requests === 1 ? "answer" : "answers"} under way${health.waiting ? `, ${health.waiting} waiting` : ""}`;
  // What is not the state of a part is said by the node's health alone, such as a damaged weight to those without the key.
  const more = health.reasons.filter((reason) => !parts.some((part) => reason.startsWith(`${part.id} is `)));
  const text = [...more, serving, load, `up ${span(health.uptime_s)}`, `version ${health.version}`].join(" · ");
  if (health.status === "unavailable") return ["unavailable", "Chat is not answered", text];
  if (health.status === "ok" && !problems.length) return ["ok", "Everything runs", text];
  const count = problems.length === 1 ? "one part needs a look" : `${problems.length} parts need a look`;
  return ["degraded", problems.length ? `Chat is answered, but ${count}` : "Chat is answered, but not everything is whole", text];
}

export class View {
  constructor() {
    this.opened = Date.now();
    this.count = 0;
    put($("happened-text"), `Nothing since ${clock(this.opened)}, when this page was opened.`);
  }

  /** All that is known now. */
  show(parts, health, dashboard, unlocked) {
    const problems = problemsOf(parts);
    this.verdict(...verdict(health, problems, parts));
    const listed = problems.map((part) => ({ part, unlocked }));
    reconcile($("problems"), listed, ({ part }) => part.id, createProblem, updateProblem);
    $("parts").classList.toggle("unlocked", Boolean(dashboard));
    reconcile($("rows"), parts, (part) => part.id, createRow, updateRow);
    this.counted(dashboard);
    document.title = `${problems.length ? `(${problems.length}) ` : ""}Supervision · Blyan`;
    document.body.classList.remove("lost");
  }

  verdict(status, title, text) {
    $("verdict").dataset.status = status;
    put($("verdict-title"), title);
    put($("verdict-text"), text);
  }

  /** The node does not answer, or not as it should: what is shown is from before. */
  lost(since, why) {
    this.verdict("lost", "The node does not answer", `${why ?? `Not since ${clock(since)}.`} What stands below is from before; this page goes on trying. `
      + "If it stays so, look whether the process runs: its last line and its exit status say why it ended.");
    document.title = "(!) Supervision · Blyan";
    document.body.classList.add("lost");
  }

  /** Whether events arrive as they happen, or only what is asked for. */
  link(status) {
    $("link").dataset.status = status;
    put($("link"), LINKS[status]);
  }

  locked(locked, why = "") {
    $("unlock").hidden = !locked;
    $("unlocked").hidden = locked;
    put($("key-fault"), why);
    if (locked) $("parts").classList.remove("unlocked");
  }

  /** What became of an order. */
  notice(text) {
    $("notice").hidden = !text;
    put($("notice"), text);
  }

  /** Changes of state, for eyes in the list, for ears at once. */
  changed(sentences) {
    if (!sentences.length) return;
    put($("announce"), `${sentences.join(". ")}.`);
    sentences.forEach((text) => this.happened(Date.now(), text, false));
  }

  happened(atMs, text, bad) {
    this.count += 1;
    put($("happened-text"), `Since ${clock(this.opened)}, when this page was opened; the newest first.`);
    const time = make("time", { dateTime: new Date(atMs).toISOString(), textContent: clock(atMs) });
    $("happened").prepend(make("li", { className: bad ? "bad" : "" }, time, " ", make("span", { textContent: text })));
    while ($("happened").children.length > HAPPENED_MAX) $("happened").lastChild.remove();
  }

  counted(dashboard) {
    $("watch").hidden = !dashboard;
    if (!dashboard) return;
    const create = () => make("li", {}, make("span"), " ", make("b"));
    reconcile($("indicators"), dashboard.threat_indicators, (one) => one.indicator, create, (item, one) => {
      item.className = one.crossed ? "bad" : "";
      put(item.firstChild, one.indicator.replaceAll("_", " "));
      put(item.lastChild, `${one.count} of ${one.threshold} in ${span(one.window_ms / 1000)}${one.crossed ? ": crossed" : ""}`);
    });
    const { audit, audit_anchored_count: anchored } = dashboard;
    put($("audit"), `Audit log: ${audit.count} records, ${anchored} of them anchored on chain A.`);
  }
}
