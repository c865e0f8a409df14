"""A byte-pair tokenizer in CLIP's file format, small enough to be built in a blink.

The real vocabulary is 1.5 MB; what matters to a comparison is the algorithm (cleaning, lower-casing, word
splitting, merging by rank, `</w>`, special tokens), which is the same for any table of merges.
"""

import collections
import json
import pathlib

# Enough repeated words for merges of several ranks, some of them crossing the words the cases use.
CORPUS = """a large red circle on a blue background a small yellow star on a black background
a painting of a quiet harbour in the morning light with boats and gulls over the water
the portrait of an old sailor, detailed face, soft light, film grain, high quality
blurry low quality distorted ugly watermark text a castle on a hill under a stormy sky
an astronaut riding a horse through the desert in the style of an oil painting 1234567890"""
MERGES = 320


def byte_characters():
    """One printable character for every byte, the table GPT-2 and CLIP share."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + position) for position, byte in enumerate(others)})
    return [table[byte] for byte in [*printable, *others]]


def learn_merges(corpus, count):
    """The `count` most frequent pairs, one after the other; ties go to the pair that sorts first."""
    words = collections.Counter(corpus.lower().replace(",", " , ").split())
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, pieces in spelled.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, pieces in spelled.items():
            merged, position = [], 0
            while position < len(pieces):
                if tuple(pieces[position : position + 2]) == best:
                    merged.append("".join(best))
                    position += 2
                else:
                    merged.append(pieces[position])
                    position += 1
            spelled[word] = merged
    return merges


def write(folder: pathlib.Path):
    """Writes vocab.json and merges.txt; returns how many tokens there are."""
    characters = byte_characters()
    merges = learn_merges(CORPUS, MERGES)
    tokens = [
        *characters,
        *[character + "</w>" for character in characters],
        *["".join(pair) for pair in merges],
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *[" ".join(pair) for pair in merges]]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(vocabulary)
