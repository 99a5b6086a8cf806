/** What the page knows of each part: the tree's node, what was decided about it, and how its generations ended. */

import { stateOf } from "./tree_words.js";

/**
 * The parts in the tree's order, then what is out of service without being in the tree, such as a damaged weight.
 *
 * @param tree answer of `GET /supervision/tree`
 * @param dashboard answer of `GET /security/dashboard`, `null` without a key
 * @param {Map<string, [string, number][]>} exits by path: reason and how often
 */
export function partsOf(tree, dashboard, exits) {
  const decided = new Map((dashboard?.components ?? []).map((one) => [one.path, one]));
  const parts = [];
  collect(tree, 0, null);
  const inTree = new Set(parts.map((part) => part.id));
  for (const [path, standing] of decided) if (!inTree.has(path)) parts.push(weight(path, standing));
  return parts;

  function collect(node, level, outAbove) {
    const standing = decided.get(node.id);
    const part = {
      ...node, level, standing,
      known: Boolean(standing), component: standing?.component ?? null,
      below: descendants(node), exits: exits.get(node.id) ?? [], heldBy: null,
    };
    // Below the node as a whole only the replicas are out.
    if (outAbove && node.state !== "running") part.heldBy = outAbove;
    parts.push(part);
    const out = stateOf(part) === "quarantined" ? node.id : outAbove;
    for (const child of node.children) collect(child, level + 1, out);
  }
}

function weight(path, standing) {
  return {
    id: path, kind: "weight", state: standing.state === "healthy" ? "running" : "quarantined", level: 1, generation: null,
    restarts_in_window: 0, mailbox_depth: 0, standing, known: true, component: standing.component, below: [], exits: [], heldBy: null,
    last_exit: null,
  };
}

const descendants = (node) => node.children.flatMap((child) => [child.id, ...descendants(child)]);

/** The parts that are not as they should be, without those that only follow from another. */
export function problemsOf(parts) {
  const out = parts.filter((part) => stateOf(part) !== "running" && !part.heldBy);
  const ids = new Set(out.map((part) => part.id));
  return out.filter((part) => stateOf(part) === "quarantined" || !part.below.some((id) => ids.has(id)));
}
