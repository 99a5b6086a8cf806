/** What the tree page says: states, reasons, advice and refusals in words. No elements here, and no requests. */

/** The orchestrator itself: it takes no orders about itself but to recover. */
const DECIDES = "security";

const STATES = {
  running: "running",
  starting: "starting",
  backing_off: "restarting",
  quarantined: "quarantined",
  probing: "recovering",
  stopping: "stopping",
  stopped: "stopped",
};

const ACTIONS = {
  quarantine: "quarantine",
  probe: "start of a recovery",
  recover: "recovery",
  failover: "failover",
  alert: "alert",
  denied: "refused without the admin key",
  tail_cut: "torn record set aside",
  grant: "key granted",
  adopt: "experts adopted",
  rollback: "chain rolled back",
};

const OUTCOMES = { begun: "begun", unchanged: "was so before", refused: "refused", failed: "did not work" };

const STATUSES = {
  401: "The node does not know this key. It wants an admin's own key, or the content of admin.key in its data directory.",
  403: "The node refuses this page: open it under a name that edge.allowed_hosts has.",
  404: "The node has no such part to decide about.",
  409: "Something else was decided meanwhile: look at the state, then try again.",
};

/** What the tree says, unless it was decided otherwise: `probing` is a recovery under way. */
export function stateOf(part) {
  const decided = part.standing?.state;
  return decided === "probing" || decided === "quarantined" ? decided : part.state;
}

export const stateWord = (state) => STATES[state] ?? state;

/** What became of the last generation, or why the part is out. */
export function whyOf(part, now) {
  if (part.heldBy) return `held down with ${part.heldBy}`;
  const out = part.standing && part.standing.state !== "healthy" ? part.standing : null;
  const texts = [];
  if (out) texts.push(`${out.reason || "no reason given"} (${out.by}, ${ago(out.since_ms, now)})`);
  else if (part.quarantine_reason) texts.push(part.quarantine_reason);
  if (part.last_exit && !out) texts.push(exitText(part.last_exit, now));
  return texts.join(" · ");
}

function exitText(exit, now) {
  const words = exit.text ? `${exit.class}: ${exit.text.split("\n")[0]}` : exit.class;
  return `${words}, ${ago(exit.at_ms, now)}`;
}

/** What to do about a part that is not as it should be. */
export function adviceOf(part, unlocked) {
  const state = stateOf(part);
  if (state === "probing") return "One try to bring it back runs now; wait for its end.";
  if (state === "backing_off") return "The node starts it again by itself. If that goes on, its last exit and the node's log say why.";
  if (state === "starting") return "It is coming up; nothing to do unless it stays so.";
  if (state === "stopping") return "It is on its way down; nothing to do unless it stays so.";
  if (state === "stopped") return "Nothing runs here and nothing will by itself: the node's log says why.";
  if (!unlocked) return "Give the admin key below to see why, and to recover it.";
  const { next_probe_ms: next, needs_verification: damaged } = part.standing ?? {};
  const own = next ? `The node tries to bring it back at ${clock(next)}; recover it now if the cause is gone.` : "It stays out until an admin recovers it: do so once the reason is settled.";
  return damaged ? `Its data failed a check: put the damaged file back whole first. ${own}` : own;
}

/** The orders that make sense for a part, the likeliest first. */
export function ordersFor(part) {
  if (!part.known || part.heldBy) return [];
  if (stateOf(part) === "quarantined") return ["recover"];
  if (part.id === DECIDES || stateOf(part) === "probing") return [];
  return part.component ? ["quarantine", "failover"] : [];
}

export const orderVerb = (decision) => ({ quarantine: "Quarantine", recover: "Recover", failover: "Fail over" })[decision];

/** What an order will do, before it is given; `serving` are the ids of the replicas that serve now. */
export function consequence(decision, part, serving) {
  // About the node as a whole an order is one about all of its replicas.
  const whole = part.level === 0;
  const it = whole ? "Every replica" : "It";
  const below = !whole && part.below.length ? ` with everything below it (${part.below.join(", ")})` : "";
  const taken = serving.filter((id) => id === part.id || part.below.includes(id));
  const others = serving.length > taken.length;
  if (decision === "quarantine") {
    const alone = others ? "Its running answers go on at another replica." : "No other replica serves: chat would be refused.";
    const work = taken.length ? alone : "Requests that need it are refused until then.";
    return `${it} is taken out of service${below}, and stays out, also when the node restarts, until an admin recovers it. ${work}`;
  }
  if (decision === "recover") {
    const verified = part.standing?.needs_verification ? "Its data is verified in full first, and it stays out if that still fails. " : "";
    return part.kind === "weight" ? `${verified}It is used again.` : `${verified}${it} is started as a new generation${below} and serves again.`;
  }
  const answers = others ? "Its running answers move to another replica at the next token. " : "Its running answers pause until it is back. ";
  return `${taken.length ? answers : ""}${it} is restarted${below} as a new generation; the answer comes when it is ready again.`;
}

/** A refusal in sentences: what its status means here, what the node says, what it advises. */
export function refusal(status, error) {
  // What the node says besides is for programs.
  if (status === 401) return [STATUSES[401]];
  const said = [error?.message, error?.hint].filter(Boolean).map(sentence);
  if (error?.retry_after_ms) said.push(`Again in ${Math.ceil(error.retry_after_ms / 1000)} s at the earliest.`);
  const own = STATUSES[status] ?? (said.length ? null : `The node answered ${status}.`);
  return [own, ...said].filter(Boolean);
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** An event of `GET /security/events` in a line: `[at_ms, text, isBad]`. */
export function eventLine(name, data) {
  if (name === "exited") return [data.at_ms, `${data.path} ended: ${data.class}`, true];
  if (name === "alert") return [data.at_ms, `Alert: ${data.indicator.replaceAll("_", " ")} (${data.count}), ${data.text}`, true];
  if (name === "missed") return [Date.now(), `${data.count} events came faster than this page could read them`, false];
  const outcome = OUTCOMES[data.outcome] ? `, ${OUTCOMES[data.outcome]}` : "";
  const why = data.reason ? `: ${data.reason}` : "";
  const bad = ["quarantine", "denied", "alert"].includes(data.action) || data.outcome === "failed";
  return [data.at_ms, `${data.subject}: ${ACTIONS[data.action] ?? data.action}${outcome}, by ${data.who}${why}`, bad];
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

/** Milliseconds since 1970 as an age; the node's clock and this one may differ a little. */
export function ago(ms, now) {
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  return seconds < 5 ? "just now" : `${span(seconds)} ago`;
}

/** Seconds in the two largest units at most. */
export function span(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return two(seconds, 3600, "h", 60, "min");
  return two(seconds, 86400, "d", 3600, "h");
}

function two(seconds, large, largeName, small, smallName) {
  const rest = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}
