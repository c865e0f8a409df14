"""Trains small unigram vocabularies into vocabulary/ and sentence_piece/, one with tokenizers and one with SentencePiece, and writes
reference.json and sentence_piece.json: what transformers' T5TokenizerFast makes of many texts with them.

    python make_reference.py                     all of it
    python make_reference.py --texts-only        the references alone, from the vocabularies that are there
    python make_reference.py --of FILE --into DIR   a folder with the tokenizer.json FILE (T5's own, say) and its reference, for
                                                 EMULSION_UNIGRAM_CHECK=DIR cargo test

The vocabulary has what T5's has: its normaliser with a table of characters in SentencePiece's form (a short one, made here), spaces as
signs, special tokens that are split off, an unknown one. Training is not the same in every run; the committed files are of one.

Needs transformers 4.57.6, tokenizers 0.22, sentencepiece 0.2.3 and protobuf.
"""

import argparse
import io
import json
import pathlib
import random
import shutil
import struct
import tempfile

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import T5TokenizerFast

HERE = pathlib.Path(__file__).parent

# Compatibility forms, white space and what is dropped: of each kind of T5's table a few.
CHARACTERS = {
    "ﬁ": "fi", "ﬂ": "fl", "™": "TM", "…": "...", "½": "1⁄2", "²": "2", "①": "1", "Ａ": "A", "ｂ": "b", "！": "!", "ｶ": "カ", "ｶﾞ": "ガ", "㎏": "kg", "℃": "°C",
    "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u200b": " ", "\u200d": "\u200d", "\u0007": "", "\u00ad": "",
    "e\u0301": "é", "a\u0308": "ä", "\ufeff": " ", "ĳ": "ij", "ſ": "s",
}

TEXTS = [
    "", " ", "   ", "\t\n", "a red circle on a blue background", "A LARGE Yellow STAR", "large, small; tiny... (huge) [odd] {set}", "  leading and   inner    spaces  ", "trailing ", " x",
    "ﬁne ﬂow ™ … ½ ² ① ＡＢ！ ｶﾞ ｶ ㎏ 20℃", "line\nbreak\rand\ttab", "no\u00a0break \u3000wide\u2003em\u200bzero\u200dwidth \ufeffmark", "nul\u0000 bell\u0007 soft\u00adhyphen",
    "cafe\u0301 a\u0308 e\u0301\u0301 \u0301alone", "naïve café façade", "日本語 中文 한국어 שלום नमस्ते", "😀 👩‍👩‍👧‍👦 🇩🇪 ❤️", "▁ ▁▁ a▁b ▁a", "</s>", "<pad>", "<unk>", "a </s> b", "a</s>b", "  </s>  ", "</s></s>", "<extra_id_0>",
    "x <extra_id_1> y<extra_id_0>z", "<extra_id_2>", "</S> < /s> <s>", "&amp; &lt; “smart” ‘quotes’", "1234567890 3.14 10,000", "a" * 300, "red " * 200, "猫" * 80, "!?" * 50, "the quick brown fox jumps over the lazy dog",
    "it's don't can''t", "http://example.com/a?b=c#d", "(masterpiece:1.2), [best]", "\\n \\t \"x\"", "ΣΑΣ Žižek ø Å", "𝓯𝓪𝓷𝓬𝔂 ⓒ", "e\u0301" * 20, "\u0301" * 12, "ｶﾞｶﾞｶﾞ", "\u200b\u200b", "ĳ ſ",
]
POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABC", "0123456789", " .,!?;:'\"-_()[]<>|&#", "   \t\n", "éèüöäß", "’“”–…", "ﬁﬂ™½²①Ａｂ！", "ｶﾞ㎏℃", "中文日本", "😀🎨👍🏽", "\u0301\u0308\u200d\ufe0f", "\u0000\u0007\u200b\ufeff\u00ad", "▁", "ĳſ",
]
PIECES = ["</s>", "<pad>", "<extra_id_0>", "red", "circle", "large", " on a ", "background", "e\u0301", "ﬁ", "  ", "\n"]


def table(replacements):
    """SentencePiece's precompiled_charsmap: a double array over the keys' bytes, and the values with a zero byte after each."""
    values, offsets = b"", {}
    for key, value in replacements.items():
        offsets[key.encode()] = len(values)
        values += value.encode() + b"\0"
    children = {b"": set()}
    for key in offsets:
        for end in range(len(key)):
            children.setdefault(key[:end], set()).add(key[end])
            children.setdefault(key[: end + 1], set())
    units, base = {0: 0}, {}
    taken = set()
    waiting, places = [b""], {b"": 0}
    while waiting:
        node = waiting.pop(0)
        labels = sorted(children[node]) + ([0] if node in offsets else [])
        base[node] = next(at for at in range(1, 1 << 20) if at not in base.values() and all((at ^ label) not in units for label in labels))
        for label in labels:
            units[base[node] ^ label] = 0x80000000 | offsets[node] if label == 0 else label
        offset = places[node] ^ base[node]
        assert offset < 1 << 21
        units[places[node]] |= offset << 10 | (0x100 if node in offsets else 0)
        for label in children[node]:
            child = node + bytes([label])
            places[child] = base[node] ^ label
            waiting.append(child)
    length = (max(max(units), max(base.values())) // 256 + 1) * 256
    array = b"".join(struct.pack("<I", units.get(at, 0)) for at in range(length))
    return struct.pack("<I", len(array)) + array + values


def corpus():
    words = "large small tiny red blue yellow green purple orange black white circle square star triangle on a the background painting of quiet harbour with and in photo".split()
    chance = random.Random(7)
    texts = [" ".join(chance.choice(words) for _ in range(8)) + chance.choice([".", "!", ", it's", " 3", " X"]) for _ in range(2000)]
    return texts + ["".join(chance.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?;:'\"-()") for _ in range(20)) for _ in range(200)]


def train_sentence_piece(folder):
    """With a word that is always a token besides, and T5's ids of the special ones."""
    def code_points(text):
        return " ".join(f"{ord(character):X}" for character in text)

    made = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        # What stays as it is needs no rule, nor may it have one.
        rules.writelines(f"{code_points(key)}\t{code_points(value)}\n" for key, value in CHARACTERS.items() if key != value)
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus()), model_writer=made, vocab_size=300, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            normalization_rule_tsv=rules.name, user_defined_symbols=["<sep>"], num_threads=1, minloglevel=1,
        )
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(made.getvalue())


def train(folder):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(table(CHARACTERS)), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([f"<extra_id_{number}>" for number in range(3)])
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", end)])
    fast = T5TokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", extra_ids=3, model_max_length=512)
    fast.save_pretrained(folder)


def generated(count):
    chance = random.Random(20)
    for _ in range(count):
        pools = chance.sample(POOLS, chance.randint(1, 4)) + [POOLS[0], " "]
        parts = [chance.choice(PIECES) if chance.random() < 0.2 else "".join(chance.choice(chance.choice(pools)) for _ in range(chance.randint(1, 6))) for _ in range(chance.randint(1, 12))]
        yield "".join(parts)


def write_reference(folder, file):
    tokenizer = T5TokenizerFast.from_pretrained(folder)
    texts = TEXTS + list(generated(400))
    lines = []
    for text in texts:
        for length in [len(tokenizer(text).input_ids) + 2] if text else [1, 4]:
            ids = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
            lines.append(json.dumps([text, ids]))
    # Cut to fit, down to the end alone.
    for length in [1, 2, 7, 77]:
        ids = tokenizer("a red circle on a blue background " * 9, padding="max_length", max_length=length, truncation=True).input_ids
        lines.append(json.dumps(["a red circle on a blue background " * 9, ids]))
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts-only", action="store_true")
    parser.add_argument("--of", type=pathlib.Path)
    parser.add_argument("--into", type=pathlib.Path)
    asked = parser.parse_args()
    if asked.of:
        asked.into.mkdir(parents=True, exist_ok=True)
        shutil.copy(asked.of, asked.into / "tokenizer.json")
        (asked.into / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 100}')
        write_reference(asked.into, asked.into / "reference.json")
        return
    if not asked.texts_only:
        train(HERE / "vocabulary")
        train_sentence_piece(HERE / "sentence_piece")
    write_reference(HERE / "vocabulary", HERE / "reference.json")
    write_reference(HERE / "sentence_piece", HERE / "sentence_piece.json")


if __name__ == "__main__":
    main()
