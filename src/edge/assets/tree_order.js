/** The dialog in front of every order: what it will do, why it is given, and what the node answers. */

import { consequence, orderVerb, refusal } from "./tree_words.js";

const $ = (id) => document.getElementById(id);

export class OrderDialog {
  /** `carry(decision, part, reason, force)` resolves once the order is in effect and rejects with what speaks against it. */
  constructor(carry) {
    this.carry = carry;
    this.busy = false;
    $("order-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("order-cancel").addEventListener("click", () => $("order").close());
    // An order that was sent cannot be taken back: the dialog stays until its answer is there.
    $("order").addEventListener("cancel", (event) => this.busy && event.preventDefault());
    $("order-force").addEventListener("change", () => this.label());
  }

  open(decision, part, parts) {
    const serving = parts.filter((one) => one.component?.serves).map((one) => one.id);
    this.decision = decision;
    this.part = part;
    $("order").dataset.decision = decision;
    $("order-title").textContent = `${orderVerb(decision)} ${part.id}?`;
    $("order-text").textContent = consequence(decision, part, serving);
    $("order-reason").value = "";
    this.fault([]);
    this.offerForce(false);
    this.wait(false);
    $("order").showModal();
    $("order-reason").focus();
  }

  async send() {
    if (this.busy || !$("order-reason").reportValidity()) return;
    this.fault([]);
    this.wait(true);
    try {
      await this.carry(this.decision, this.part, $("order-reason").value.trim(), $("order-force").checked);
      $("order").close();
      this.wait(false);
    } catch (fault) {
      this.wait(false);
      this.refused(fault);
    }
  }

  refused(fault) {
    const { status, error } = fault;
    if (!status) {
      return this.fault(["No answer came: the order may have arrived or not. The state of the part tells.", "If it has not changed, try again: an order given twice does no harm."]);
    }
    // The only refusal that force helps against says so, in words for programs.
    const forcible = status === 400 && Boolean(error?.hint?.includes("force"));
    this.fault(refusal(status, forcible ? { message: error.message.split(";")[0] } : error));
    this.offerForce(forcible);
    $(forcible ? "order-force" : "order-reason").focus();
  }

  fault(sentences) {
    $("order-fault").replaceChildren(...sentences.map((text) => {
      const line = document.createElement("p");
      line.textContent = text;
      return line;
    }));
  }

  offerForce(offered) {
    $("order-force-line").hidden = !offered;
    $("order-force").checked = false;
    this.forcible = offered;
    this.label();
  }

  wait(busy) {
    this.busy = busy;
    $("order-form").setAttribute("aria-busy", busy);
    $("order-cancel").disabled = busy;
    this.label();
  }

  label() {
    const forced = $("order-force").checked;
    const verb = orderVerb(this.decision);
    $("order-send").textContent = this.busy ? "Working …" : forced ? `${verb} by force` : verb;
    $("order-send").disabled = this.busy || (this.forcible && !forced);
  }
}
