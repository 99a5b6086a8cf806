#!/usr/bin/env python3
"""Cuts the texts of this folder out of the Debian packages that README.md names.

    extract.py DIR      DIR holds the .deb files (apt-get download), each unpacked into DIR/<package>
                        with `dpkg-deb -x`; the texts are written beside this script
"""
import gzip
import html.parser
import pathlib
import re
import struct
import sys
import zlib

HERE = pathlib.Path(__file__).parent
HANDBOOK = "debian-handbook/usr/share/doc/debian-handbook/html/en-US"
JARGON = "jargon-text/usr/share/doc/jargon-text/jargon.txt.gz"
PYTHON = "python3.11-doc/usr/share/doc/python3.11/html/_sources"
NOVELS = "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"

HANDBOOK_EVALUATION = """the-debian-project sect.foundation-documents sect.debian-internals sect.follow-debian-news
sect.role-of-distributions sect.release-lifecycle sect.master-plan sect.why-gnu-linux sect.why-debian
sect.why-debian-stable sect.how-to-migrate sect.becoming-package-maintainer sect.future-of-debian
sect.future-of-this-book""".split()
HANDBOOK_FIT = """short-remedial-course sect.computer-layers sect.kernel-role-and-tasks sect.user-space
sect.shell-environment sect.rights-management sect.backup sect.hotplug""".split()
PYTHON_FIT = """tutorial/classes tutorial/errors howto/sorting library/textwrap""".split()


class HandbookPage(html.parser.HTMLParser):
    """Paragraphs, headings and listings of one page; navigation left out."""

    BLOCKS = {"p", "h1", "h2", "h3", "h4", "li", "dt", "dd", "pre"}
    SKIPPED = {"script", "style", "title", "nav"}

    def __init__(self):
        super().__init__()
        self.blocks, self.current, self.listing, self.skipped = [], [], 0, 0

    def flush(self):
        text = "".join(self.current)
        text = text.strip("\n") if self.listing else " ".join(text.split())
        if text and text != "Download the ebook":
            self.blocks.append(text)
        self.current = []

    def handle_starttag(self, tag, attrs):
        if tag in self.SKIPPED or dict(attrs).get("class", "").startswith(("docnav", "toc")):
            self.skipped += 1
        elif self.skipped and tag in {"ul", "div", "p"}:
            self.skipped += 1
        if tag in self.BLOCKS:
            self.flush()
        if tag == "pre":
            self.listing += 1

    def handle_endtag(self, tag):
        if tag in self.BLOCKS:
            self.flush()
        if tag == "pre":
            self.listing -= 1
        if self.skipped and (tag in self.SKIPPED or tag in {"ul", "div", "p"}):
            self.skipped -= 1

    def handle_data(self, data):
        if not self.skipped:
            self.current.append(data)


def handbook(root, pages):
    texts = []
    for page in pages:
        reader = HandbookPage()
        reader.feed((root / HANDBOOK / f"{page}.html").read_text(encoding="utf-8"))
        reader.flush()
        texts.append("\n\n".join(reader.blocks))
    return "\n\n".join(texts)


def jargon(root):
    text = gzip.open(root / JARGON, "rt", encoding="utf-8").read().replace("\u00a0", " ")

    def between(start, end):
        return text[text.index("\n" + start):text.index("\n" + end)]

    introduction = between("Chapter 1. ", "Chapter 3. ")
    lexicon = between("   :goat file:", "   :gotcha:")
    folklore = between("Appendix A. ", "Appendix B. ")
    return introduction + lexicon + folklore[:24000].rsplit("\n\n", 1)[0]


def python(root, pages):
    return "\n\n".join((root / PYTHON / f"{page}.rst.txt").read_text(encoding="utf-8") for page in pages)


def novel(root, opening, chapters):
    """The first chapters of the novel whose first line is `opening`, from R's serialised strings."""
    data = (root / NOVELS).read_bytes()
    while data:
        inflate = zlib.decompressobj()
        record, data = inflate.decompress(data[4:]), inflate.unused_data
        at, lines = record.index(b"\x00\x04\x00\x09"), []
        while record[at:at + 2] == b"\x00\x04" and at + 8 <= len(record):
            length = struct.unpack(">i", record[at + 4:at + 8])[0]
            lines.append(record[at + 8:at + 8 + length].decode("latin-1"))
            at += 8 + length
        if lines[0] == opening:
            parts = re.split(r"\n(?=Chapter \d+\n)", "\n".join(lines))
            return "\n".join(parts[1:1 + chapters])
    raise SystemExit(f"no novel opens with {opening!r}")


def write(name, text):
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(text.encode())} bytes")


def main(root):
    write("eval-handbook.txt", handbook(root, HANDBOOK_EVALUATION))
    write("eval-persuasion.txt", novel(root, "Persuasion", 7))
    write("fit-handbook.txt", handbook(root, HANDBOOK_FIT))
    write("fit-jargon.txt", jargon(root))
    write("fit-python.txt", python(root, PYTHON_FIT))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
