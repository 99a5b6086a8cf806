"""`inference.strict`: what a request gets does not depend on its company, on threads, or on what was in the cache.

BLYAN_CHAOS sets the prompts, BLYAN_SEED what is drawn; with 100 prompts or more the reference backend, which promises
nothing of the kind, is measured beside it.
"""

import os
import pathlib
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

PROMPTS = int(os.environ.get("BLYAN_CHAOS", "10"))
TEXT = pathlib.Path(__file__).parents[2] / "model/data/texts/eval-persuasion.txt"
STRICT = {"BLYAN__INFERENCE__STRICT": "true"}
ALONE = {"BLYAN__INFERENCE__THREADS": "1", "BLYAN__INFERENCE__REPLICAS": "1"}
COMPANY = {
    "batches of 8, 1 thread": {"BLYAN__INFERENCE__THREADS": "1", "BLYAN__INFERENCE__REPLICAS": "1"},
    "batches of 8, 2 threads, 2 replicas": {"BLYAN__INFERENCE__THREADS": "2", "BLYAN__INFERENCE__REPLICAS": "2"},
    "20 MB for 90 MB of experts": {"BLYAN__INFERENCE__THREADS": "2", "BLYAN__EXPERT_CACHE__BYTES_MAX": "20000000"},
}


@pytest.fixture(scope="module")
def own_store(imported, tmp_path_factory):
    """One node after the other serves from it."""
    copy = tmp_path_factory.mktemp("strict") / "data"
    shutil.copytree(imported, copy)
    return copy


@pytest.fixture(scope="module")
def requests():
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    text = TEXT.read_text()
    drawn = []
    for number in range(PROMPTS):
        start = rng.randrange(len(text) - 1000)
        fields = {"prompt": text[start:start + rng.randrange(10, 900)], "max_tokens": rng.randrange(8, 48),
                  "top_k_experts": rng.choice([16, 16, 14, 12])}
        if number % 2:
            fields |= {"temperature": rng.choice([0.7, 1.0, 1.3]), "seed": rng.randrange(1 << 32)}
        drawn.append(fields)
    return drawn


def answers(node, requests, together):
    """Texts and tokens in the order of `requests`, which are sent in any; with the tokens a second."""
    order = random.Random(together).sample(range(len(requests)), len(requests))

    def ask(number):
        reply = node.chat(**requests[number])
        assert reply.status_code == 200, reply.text
        return number, (reply.json()["text"], reply.json()["usage"]["completion_tokens"])

    began = time.monotonic()
    with ThreadPoolExecutor(together) as pool:
        got = dict(pool.map(ask, order))
    rate = sum(tokens for _, tokens in got.values()) / (time.monotonic() - began)
    return [got[number] for number in range(len(requests))], rate


def differing(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_company_threads_and_cache_change_no_token(own_store, start, requests):
    node = start(own_store, env=STRICT | ALONE)
    alone, rate = answers(node, requests, 1)
    assert node.stop() == 0
    print(f"{len(requests)} prompts, half greedy, half seeded; alone: {rate:.1f} tokens/s")
    for name, env in COMPANY.items():
        node = start(own_store, env=STRICT | env)
        crowd, rate = answers(node, requests, 16)
        assert node.stop() == 0
        print(f"{name}: {differing(alone, crowd)} differ, {rate:.1f} tokens/s")
        assert crowd == alone, name


@pytest.mark.skipif(PROMPTS < 100, reason="a rate needs many prompts")
def test_the_reference_promises_nothing_of_the_kind(own_store, start, requests):
    reference, some = {"BLYAN__INFERENCE__BACKEND": "reference"}, requests[:100]
    node = start(own_store, env=reference | ALONE)
    alone, _ = answers(node, some, 1)
    assert node.stop() == 0
    node = start(own_store, env=reference | {"BLYAN__INFERENCE__THREADS": "2"})
    crowd, _ = answers(node, some, 16)
    assert node.stop() == 0
    print(f"reference: {differing(alone, crowd)} of {len(some)} differ")


def test_a_backend_that_cannot_promise_is_refused(own_store, start):
    with pytest.raises(AssertionError, match="inference.strict"):
        start(own_store, env=STRICT | {"BLYAN__INFERENCE__BACKEND": "reference"})
