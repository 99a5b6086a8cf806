"""A prompt that no step survives ends alone: seven chats beside it are answered as without it, and no replica is taken
out. BLYAN_CHAOS sets the number of rounds."""

import os

from test_failover import Stream

ROUNDS = int(os.environ.get("BLYAN_CHAOS", "5"))
# One token of the model's own, and of no other prompt here.
POISON, POISON_TOKEN = "½", 16738
BESIDE = 7
REPLICAS = [f"serving/replicas/inference-{number}" for number in (1, 2)]


def bodies():
    for number in range(BESIDE):
        body = {"prompt": f"Write about {number + 3} birds.", "max_tokens": 24}
        yield body | ({"temperature": 0} if number % 2 else {"temperature": 1.0, "seed": 300 + number})


def together(node, chosen):
    streams = [Stream(node, body).start() for body in chosen]
    for one in streams:
        one.thread.join()
    return streams


def lives(node):
    tree = node.tree()
    return [(tree[path]["state"], tree[path]["generation"]) for path in REPLICAS]


def test_a_poison_prompt_ends_alone(faultnode, store):
    node = faultnode(store, env={"BLYAN__INFERENCE__STRICT": "true"})
    poison = {"prompt": f"What is {POISON} of a bird?", "max_tokens": 24, "temperature": 0}
    (harmless,) = together(node, [poison])
    assert harmless.end in ("stop", "length"), "before it is poison"
    calm = [one.answer for one in together(node, bodies())]
    assert all(end in ("stop", "length") for _, end in calm)
    before = lives(node)
    assert [state for state, _ in before] == ["running"] * 2
    node.command(f"poison {POISON_TOKEN}")
    for number in range(ROUNDS):
        chosen = list(bodies())
        # Before, among and behind the others.
        chosen.insert(number % (BESIDE + 1), poison)
        streams = together(node, chosen)
        struck = streams.pop(number % (BESIDE + 1))
        assert struck.answer == ([], "poisoned_request"), (number, struck.answer)
        assert [one.answer for one in streams] == calm, number
        assert lives(node) == before, "no replica was quarantined or even restarted"
    print(f"\n{ROUNDS} poison prompts ended alone, {BESIDE * ROUNDS} streams beside them as without")
    assert node.stop() == 0
