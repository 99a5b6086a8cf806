"""What a second replica costs in anonymous memory, beyond its key/value memory."""

import concurrent.futures

MB = 1_000_000


def anonymous_bytes(node) -> int:
    """Resident anonymous memory of the node's process."""
    with open(f"/proc/{node.process.pid}/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no Anonymous line")


def warmed(start, store, replicas):
    node = start(store, env={"BLYAN__INFERENCE__REPLICAS": str(replicas)})
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: node.chat(f"Tell me about {n}.", max_tokens=8), range(8)))
        assert all(a.status_code == 200 for a in answers)
    return node


def kv_bytes(node) -> int:
    """Touched key/value memory that the node counts."""
    for line in node.http.get("/metrics").text.splitlines():
        if line.startswith("blyan_inference_kv_bytes "):
            return int(float(line.split()[1]))
    raise AssertionError("no blyan_inference_kv_bytes metric")


def test_a_second_replica_adds_little(store, start):
    measured = {}
    for replicas in (1, 2):
        node = warmed(start, store, replicas)
        node.wait_for(lambda: kv_bytes(node) == 0)
        measured[replicas] = anonymous_bytes(node)
        assert node.stop() == 0
    added = (measured[2] - measured[1]) / MB
    print(f"\nanonymous memory: 1 replica {measured[1] / MB:.1f} MB, 2 replicas {measured[2] / MB:.1f} MB, added {added:.1f} MB")
    assert added <= 20
