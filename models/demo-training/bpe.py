"""A CLIP tokenizer of 1,000 entries: byte-level BPE with `</w>` at the end of words.

Writes the four files that transformers' CLIPTokenizer reads. Ids: 0...511 the bytes (alone, then at
a word's end), then the merges in their order, 998 <|startoftext|>, 999 <|endoftext|>. As in Stable
Diffusion 1.5 padding is <|endoftext|>, and the end's id is the highest, which pooling relies on.
"""

import json
import random
from collections import Counter
from pathlib import Path

from transformers.models.clip.tokenization_clip import bytes_to_unicode

from grammar import FILLER_WORDS, canonical_prompt, loose_prompt, training_scene

VOCABULARY_SIZE = 1000
MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
START_ID, END_ID = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1
CORPUS_PROMPTS = 4000


def corpus(seed: int) -> Counter:
    """How often each word occurs: prompts of the grammar, and each filler word some times."""
    rng = random.Random(seed)
    counts = Counter()
    for _ in range(CORPUS_PROMPTS):
        scene = training_scene(rng)
        for prompt in (canonical_prompt(scene), loose_prompt(scene, rng)):
            counts.update(prompt.replace(",", " ,").split())
    for word in FILLER_WORDS:
        counts[word] += 20
    return counts


def learn_merges(counts: Counter, limit: int) -> list[tuple[str, str]]:
    """The `limit` most useful merges; ties fall to the alphabetically first pair."""
    symbols = bytes_to_unicode()
    words = []
    for word, count in sorted(counts.items()):
        pieces = [symbols[byte] for byte in word.encode("utf-8")]
        pieces[-1] += "</w>"
        words.append((pieces, count))
    merges = []
    while len(merges) < limit:
        pairs = Counter()
        for pieces, count in words:
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces, _ in words:
            index = 0
            while index < len(pieces) - 1:
                if (pieces[index], pieces[index + 1]) == best:
                    pieces[index:index + 2] = ["".join(best)]
                index += 1
    return merges


def write_tokenizer(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    entries = letters + [letter + "</w>" for letter in letters]
    merges = learn_merges(corpus(seed), START_ID - len(entries))
    entries += ["".join(pair) for pair in merges]
    # Should the corpus give out too early, unused entries keep the special ids where they are.
    entries += [f"<|unused{index}|>" for index in range(START_ID - len(entries))]
    entries += [START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    if len(vocabulary) != VOCABULARY_SIZE:
        raise ValueError(f"{len(vocabulary)} distinct entries instead of {VOCABULARY_SIZE}: two merges give one token")
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"content": END, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start = special | {"content": START}
    names = {"bos_token": start, "eos_token": special, "unk_token": special, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
    settings = {
        "add_prefix_space": False, "bos_token": START, "clean_up_tokenization_spaces": False,
        "do_lower_case": True, "eos_token": END, "errors": "replace", "model_max_length": MAX_TOKENS,
        "pad_token": END, "tokenizer_class": "CLIPTokenizer", "unk_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
