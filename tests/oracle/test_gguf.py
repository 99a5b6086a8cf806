"""The engine on a GGUF file's fp32 weights against numpy on the same file.

`lines.json` holds 20 prompts in the chat template, each followed by up to 24 tokens of an answer: both sides are forced
along the same tokens. Any tokens would do.
"""

import json
import os
import pathlib
import subprocess

import numpy as np

from compare import Comparison
from llama import logits
from weights import model_of_gguf

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ.get("BLYAN_CACHE_DIR") or pathlib.Path.home() / ".cache/blyan")
GGUF = CACHE / "model/SmolLM2-135M-Instruct.Q4_1.gguf"
LIBRARY = os.environ.get("ORT_DYLIB_PATH") or CACHE / "onnxruntime/libonnxruntime.so.1.32.0"
HELPER = pathlib.Path(os.environ.get("BLYAN_BINARY", "")).parent / "examples/gguf_logits"


def test_engine_agrees_with_numpy_on_the_gguf(tmp_path):
    lines = json.loads((HERE / "lines.json").read_text())
    assert len(lines) == 20
    environment = {**os.environ, "ORT_DYLIB_PATH": str(LIBRARY)}
    subprocess.run([HELPER, GGUF, HERE / "lines.json", tmp_path], check=True, env=environment)
    model, seen = model_of_gguf(GGUF), Comparison()
    for number, line in enumerate(lines):
        theirs = logits(model, line["tokens"], line["prompt_len"] - 1)
        ours = np.fromfile(tmp_path / f"{number}.f32", "<f4").reshape(theirs.shape)
        for step in range(len(theirs)):
            seen.add(f"line {number}, step {step}", ours[step], theirs[step])
    seen.report("engine on the GGUF's fp32 weights")
    assert seen.steps >= 20 * 16
    assert not seen.faults
