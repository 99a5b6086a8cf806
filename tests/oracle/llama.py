"""The model in numpy, fp32, a whole token line at once."""

import numpy as np

from weights import Model


def norm(x, gain, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(epsilon)) * gain


def rotate(x, base):
    """Turns elements 2i and 2i+1 of each head, `[tokens, heads, width]`, by position * base^(-2i / width)."""
    tokens, _, width = x.shape
    angles = np.arange(tokens)[:, None] * base ** (-np.arange(0, width, 2) / width)
    cos, sin = (f(angles).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2], turned[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
    return turned


def attention(model: Model, layer, x):
    tokens, width = len(x), model.head_dim
    qkv = x @ model.weights[f"layer{layer}.attn_qkv"].T
    query, key, value = np.split(qkv, [model.hidden, model.hidden + model.kv_heads * width], axis=1)
    query = rotate(query.reshape(tokens, model.heads, width), model.rope_base)
    key = rotate(key.reshape(tokens, model.kv_heads, width), model.rope_base)
    value = value.reshape(tokens, model.kv_heads, width)
    shared_by = model.heads // model.kv_heads
    key, value = (np.repeat(part, shared_by, axis=1) for part in (key, value))
    scores = np.einsum("qhd,khd->hqk", query, key) / np.float32(np.sqrt(width))
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(axis=-1, keepdims=True), value)
    return mixed.reshape(tokens, model.hidden) @ model.weights[f"layer{layer}.attn_output"].T


def feed_forward(model: Model, layer, x):
    gate, up, down = np.split(model.weights[f"layer{layer}.ffn"], 3)
    gated = x @ gate.T
    return (gated / (1 + np.exp(-gated)) * (x @ up.T)) @ down


def logits(model: Model, tokens, first=0):
    """Logits after each token of the line from the one at `first` on, `[steps, vocabulary]`."""
    gain = lambda name: model.weights[name].reshape(-1)
    x = model.weights["embedding"][np.asarray(tokens)].astype(np.float32)
    for layer in range(model.layers):
        x = x + attention(model, layer, norm(x, gain(f"layer{layer}.attn_norm"), model.rms_epsilon))
        x = x + feed_forward(model, layer, norm(x, gain(f"layer{layer}.ffn_norm"), model.rms_epsilon))
    return norm(x[first:], gain("output_norm"), model.rms_epsilon) @ model.weights["embedding"].T
