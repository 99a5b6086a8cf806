"""Writes tokens.json: SmolLM2's tokenizer written down a second time, in plain Python.

Usage: pip install gguf regex jinja2; python reference.py MODEL.gguf > tokens.json
"""

import json
import sys

import jinja2
import regex
from gguf import GGUFReader

CONTROL = 3
WORD = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)

TEXTS = [
    "Hello, world!",
    "  two  spaces\n\n\tand a tab\r\nand \r a return",
    "1234567890 3.14 a1b2 ½ Ⅷ ٣",
    "café naïve über Straße ŒUVRE",
    "日本語のテキストと漢字。",
    "😀🦀 👩‍👩‍👧 emoji",
    "def f(x):\n    return x**2  # twice\n",
    "I'm sure you're told they'll say WE'VE 'tis",
    "a",
    "",
    " ",
    "\n",
    "\n\n\n",
    " leading and trailing ",
    "The quick brown fox jumps over the lazy dog 42 times.",
    '<html><body class="x">&amp;</body></html>',
    "a\u00a0b\u2003c\u200bd",
    "e\u0301 combining",
    "Привет, мир! Γειά σου",
    '{"key": [1, 2.5e-3, null]}',
    "x" * 50,
    "=====-----_____",
    "http://example.com/a?b=c&d=%20",
    "مرحبا بالعالم",
]


def said(role, content):
    return {"role": role, "content": content}


CHATS = [
    [said("user", "What is the capital of France?")],
    [said("system", "Be brief."), said("user", "Hi")],
    [
        said("user", "\n\n leading newlines"),
        said("assistant", "I see.\n"),
        said("user", "and 123"),
    ],
    [said("user", "")],
]


def byte_alphabet():
    """GPT-2's character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable}
    alphabet.update({byte: chr(256 + nth) for nth, byte in enumerate(others)})
    return alphabet


class Tokenizer:
    def __init__(self, path):
        fields = GGUFReader(path).fields

        def field(name):
            return fields[name].contents()

        tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
        pairs = list(zip(tokens, types))
        self.text = {token: nth for nth, (token, kind) in enumerate(pairs) if kind != CONTROL}
        self.control = {token: nth for nth, (token, kind) in enumerate(pairs) if kind == CONTROL}
        merges = field("tokenizer.ggml.merges")
        self.rank = {tuple(merge.split(" ")): nth for nth, merge in enumerate(merges)}
        self.template = jinja2.Environment().from_string(field("tokenizer.chat_template"))
        self.alphabet = byte_alphabet()

    def word(self, word):
        parts = [self.alphabet[byte] for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(parts, parts[1:]) if pair in self.rank]
            if not pairs:
                return [self.text[part] for part in parts]
            best = min(pairs, key=self.rank.__getitem__)
            merged = []
            while parts:
                width = 2 if tuple(parts[:2]) == best else 1
                merged.append("".join(parts[:width]))
                parts = parts[width:]
            parts = merged

    def encode(self, text):
        pieces = [piece for piece in regex.split(r"(\p{N})", text) if piece]
        return [
            token for piece in pieces for word in WORD.findall(piece) for token in self.word(word)
        ]

    def chat(self, messages):
        text = self.template.render(messages=messages, add_generation_prompt=True)
        names = "|".join(map(regex.escape, self.control))
        tokens = []
        for part in regex.split(f"({names})", text):
            tokens += [self.control[part]] if part in self.control else self.encode(part)
        return tokens


def lines(rows):
    return ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)


def main():
    tokenizer = Tokenizer(sys.argv[1])
    texts = [{"text": text, "tokens": tokenizer.encode(text)} for text in TEXTS]
    chats = [{"messages": chat, "tokens": tokenizer.chat(chat)} for chat in CHATS]
    print(f'{{\n "texts": [\n{lines(texts)}\n ],\n "chats": [\n{lines(chats)}\n ]\n}}')


main()
