"""`blyan learn` on little text: what it says, and that few windows of held-out text adopt nothing."""

import json
import pathlib

from conftest import run

TEXTS = pathlib.Path(__file__).resolve().parents[2] / "model/data/texts"
EXPERT = "layer0.expert3"


def learn(store, out, *more, **options):
    return run(
        "learn", "--expert", EXPERT, "--text", TEXTS / "fit-jargon.txt", "--held-out", TEXTS / "eval-persuasion.txt",
        "--out", out, "--tokens", "5120", "--held-out-tokens", "512", "--steps", "40", "--json", *more,
        data_dir=store, **options,
    )  # fmt: skip


def test_an_expert_learns_and_one_window_adopts_nothing(store, tmp_path):
    out = tmp_path / "out"
    before, taught, judged, after = map(json.loads, learn(store, out).stdout.splitlines())
    assert (before["perplexity"], after["perplexity"]) == ("before", "after")
    assert (taught["taught"], judged["judged"]) == (EXPERT, [EXPERT])
    assert before["dense"]["value"] < before["sparse"]["value"]
    # An always-on expert gets every token but those of the window that is kept apart.
    assert taught["tokens"] == 5120 - 512
    assert taught["left_learned"] < 1
    assert not judged["adopted"] and "1 windows" in judged["refusal"], judged
    assert after["sparse"] == before["sparse"] and not list(out.iterdir())


def test_what_is_no_expert_is_refused(store, tmp_path):
    refused = learn(store, tmp_path / "out", "--expert", "layer0.router", check=False)
    assert refused.returncode == 1 and "no expert" in refused.stderr, refused.stderr
