"""The node's logits against numpy on the same weights.

`lines.json` holds 20 prompts in the chat template, each followed by up to 24 tokens of an answer: both sides are forced
along the same tokens. Any tokens would do.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from compare import Comparison
from conftest import BINARY, run
from llama import logits
from weights import model_of_gguf, model_of_store

HERE = pathlib.Path(__file__).parent
LINES = HERE / "lines.json"
CACHE = pathlib.Path(os.environ.get("BLYAN_CACHE_DIR") or pathlib.Path.home() / ".cache/blyan")
GGUF = CACHE / "model/SmolLM2-135M-Instruct.Q4_1.gguf"
LIBRARY = os.environ.get("ORT_DYLIB_PATH") or CACHE / "onnxruntime/libonnxruntime.so.1.32.0"
EXAMPLES = pathlib.Path(BINARY).parent / "examples"


def compare(name, helper, source, model, out, backend="reference"):
    """Runs the helper, which writes our logits to `out`, and compares every step."""
    environment = {**os.environ, "ORT_DYLIB_PATH": str(LIBRARY),
                   "BLYAN__INFERENCE__BACKEND": backend}
    subprocess.run([EXAMPLES / helper, source, LINES, out], check=True, env=environment)
    seen = Comparison()
    lines = json.loads(LINES.read_text())
    assert len(lines) == 20
    for number, line in enumerate(lines):
        theirs = logits(model, line["tokens"], line["prompt_len"] - 1)
        ours = np.fromfile(out / f"{number}.f32", "<f4").reshape(theirs.shape)
        for step in range(len(theirs)):
            seen.add(f"line {number}, step {step}", ours[step], theirs[step])
    seen.report(name)
    assert seen.steps >= 20 * 16
    assert not seen.faults


def test_engine_on_the_file_it_was_made_from(tmp_path):
    compare("engine on the GGUF's fp32 weights", "gguf_logits", GGUF, model_of_gguf(GGUF), tmp_path)


@pytest.mark.parametrize("backend", ["reference", "fast"])
def test_node_on_the_model_in_its_store(imported, tmp_path, backend):
    info = json.loads(run("model", "info", "--json", data_dir=imported).stdout)
    model = model_of_store(imported, info, like=model_of_gguf(GGUF))
    compare(f"{backend} backend on the chain's weights", "chain_logits", imported, model, tmp_path, backend)
