import { readEvents } from "./sse.js";

const $ = (id) => document.getElementById(id);
const conversation = [];
let running = null;
let spent = 0n;

/** 10^-6 BLY as a decimal text, exactly. */
function bly(micro) {
  const digits = micro.toString().padStart(7, "0");
  return `${digits.slice(0, -6)}.${digits.slice(-6)}`;
}

function headers() {
  const all = { "content-type": "application/json" };
  if ($("key").value) all["x-api-key"] = $("key").value;
  return all;
}

function addTurn(role, text) {
  document.querySelector(".empty")?.remove();
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  turn.append(document.createTextNode(text));
  $("log").append(turn);
  turn.scrollIntoView({ block: "end" });
  return turn;
}

function note(turn, className, text) {
  const line = document.createElement("span");
  line.className = className;
  line.textContent = text;
  turn.append(line);
  turn.scrollIntoView({ block: "end" });
}

/** One answer on its way: the same events whatever carries them. */
class Answer {
  constructor(turn) {
    this.turn = turn;
    this.text = "";
    this.tokens = 0;
    this.maxTokens = 1;
    this.ended = false;
    this.cancel = () => {};
  }

  event(name, data) {
    if (this.ended) return;
    if (name === "stream_start") this.started(data);
    else if (name === "token") this.token(data);
    else if (name === "stream_end") this.finished(data);
    else if (name === "error") this.failed(data.error);
  }

  started(data) {
    this.maxTokens = data.max_tokens;
    this.meter(BigInt(data.input_cost), 0);
  }

  token(data) {
    this.tokens = data.index + 1;
    this.text += data.token;
    this.turn.firstChild.data = this.text;
    this.meter(BigInt(data.cumulative_cost), data.tokens_per_second);
    const log = $("log");
    if (log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
  }

  meter(cost, speed) {
    $("tokens").textContent = this.tokens;
    $("progress").value = Math.min(1, this.tokens / this.maxTokens);
    $("speed").textContent = speed ? speed.toFixed(1) : "–";
    $("cost").textContent = bly(cost);
  }

  finished(data) {
    const { top_k, used, loaded } = data.experts;
    this.meter(BigInt(data.total_cost), data.timing.tokens_per_second);
    $("used").textContent = used;
    spent += BigInt(data.total_cost);
    $("total").textContent = bly(spent);
    note(this.turn, "note", `${data.finish_reason} · ${data.usage.completion_tokens} tokens in ${data.duration.toFixed(1)} s · `
      + `${used} experts used (${top_k} a layer and token${loaded ? `, ${loaded} loaded` : ""}) · ${data.stream_id}`);
    this.end(true);
  }

  failed(error) {
    note(this.turn, "fault", `${error.message} ${error.hint ?? ""}`);
    this.end(false);
  }

  end(whole) {
    this.ended = true;
    this.turn.classList.remove("running");
    this.turn.removeAttribute("aria-busy");
    if (this.text) conversation.push({ role: "assistant", content: this.text });
    else if (!whole) conversation.pop();
    running = null;
    buttons();
  }
}

/** Server-Sent Events by POST, so that the prompt stands in no address. */
async function overSse(body, answer) {
  const abort = new AbortController();
  answer.cancel = () => abort.abort();
  try {
    const response = await fetch("/chat/stream", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: abort.signal,
    });
    if (!response.ok) return answer.failed((await response.json()).error);
    await readEvents(response.body, (name, data) => answer.event(name, data));
    if (!answer.ended) answer.failed({ message: "The connection ended before the answer." });
  } catch (fault) {
    const message = abort.signal.aborted ? "Cancelled." : `The node was not reached: ${fault.message}.`;
    if (!answer.ended) answer.failed({ message });
  }
}

function overWebSocket(body, answer) {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/chat`);
  const id = "page";
  const send = (message) => socket.send(JSON.stringify(message));
  answer.cancel = () => (socket.readyState === WebSocket.OPEN ? send({ type: "cancel", id }) : socket.close());
  socket.onopen = () => send({ type: "start", id, ...body });
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    answer.event(message.type, message);
    if (answer.ended) socket.close();
  };
  socket.onclose = () => {
    if (!answer.ended) answer.failed({ message: "The connection ended before the answer." });
  };
}

function buttons() {
  $("send").disabled = Boolean(running);
  $("cancel").hidden = !running;
}

function ask(prompt) {
  conversation.push({ role: "user", content: prompt });
  addTurn("user", prompt);
  const turn = addTurn("assistant running", "");
  // Read aloud when it is whole, not token by token.
  turn.setAttribute("aria-busy", "true");
  running = new Answer(turn);
  buttons();
  const body = {
    messages: conversation,
    max_tokens: Number($("max-tokens").value) || 256,
    temperature: Number($("temperature").value),
  };
  const experts = Number($("experts").value);
  if (experts) body.top_k_experts = experts;
  ($("transport").value === "ws" ? overWebSocket : overSse)(body, running);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (!prompt || running) return;
  $("prompt").value = "";
  ask(prompt);
});

$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("cancel").addEventListener("click", () => running?.cancel());

$("forget").addEventListener("click", () => {
  running?.cancel();
  conversation.length = 0;
  $("log").replaceChildren();
});

/** The choices of experts per layer: all, or down to those that are always on. */
function offerExperts(model) {
  const choices = [new Option(`all ${model.experts_per_layer}`, "0")];
  for (let k = model.experts_per_layer - 1; k >= model.experts_always_on; k -= 1) choices.push(new Option(k, k));
  $("experts").replaceChildren(...choices);
}

async function showModel() {
  const list = await (await fetch("/v1/models")).json();
  const model = list.data[0];
  $("model").textContent = `${model.id} · ${model.model_id.slice(0, 12)}…`;
  offerExperts(model);
}

async function showHealth() {
  let status = "unavailable";
  try {
    status = (await (await fetch("/monitoring/health")).json()).status;
  } catch {
    // Not reached: unavailable.
  }
  $("health").dataset.status = status;
  $("health").textContent = status;
}

// On a small screen the conversation needs the room.
$("settings").open = matchMedia("(min-width: 46rem) and (min-height: 46rem)").matches;
showModel().catch(() => { $("model").textContent = "the model is not there yet"; });
showHealth();
setInterval(showHealth, 5000);
