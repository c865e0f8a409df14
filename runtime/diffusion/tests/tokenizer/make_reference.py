"""Writes reference.json: what the slow CLIPTokenizer of transformers (with ftfy) makes of many texts.

    python make_reference.py                        the committed vocabulary and its older form with other special tokens
    python make_reference.py --bpe FILE --into DIR  a folder with CLIP's own vocabulary from its bpe_simple_vocab_16e6.txt.gz and
                                                    its reference.json, for EMULSION_TOKENIZER_CHECK=DIR cargo test

Needs transformers 4.57.6 and ftfy 6.3.1.
"""

import argparse
import gzip
import json
import pathlib
import random
import shutil
import tempfile

from transformers import CLIPTokenizer

HERE = pathlib.Path(__file__).parent

TEXTS = [
    "", " ", "\t\n ", "a red circle on a blue background", "A LARGE Yellow STAR", "large, small; tiny... (huge) [odd] {set}",
    "it's we're they've I'm you'll he'd don't IT'S 'S 'x 'Tis o'clock rock'n'roll", "'s't're've'm'll'd", "''s '''", "can''t",
    "1234567890 3.14 10,000 50% 2nd 4k 8K x2", "½ ² ③ Ⅷ ٣ ५ 一二三 𝟘 ໑", "naïve café façade Ångström Øre Žižek İstanbul ı",
    "ΣΑΣ ΟΔΟΣ Σ σς ΑΣ.Σ", "straße STRASSE ẞ ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ ĳ ŉ Ǆ", "ſ 'ſ 'ſs ſt <|ſtartoftext|> K Å Ω", "Æ Œ ð þ",
    "中文 提示词 猫", "日本語テスト ｶﾀｶﾅ ﾊﾝｶｸ ＦＵＬＬ　ＷＩＤＴＨ １２３ ！？", "한국어 각 각", "हिन्दी नमस्ते ไทย ภาษา العربية שלום",
    "😀", "👩‍👩‍👧‍👦 family", "🏴󠁧󠁢󠁥󠁮󠁧󠁿 flag 🇩🇪", "❤️ ❤ ☺︎ ✓ ★☆", "a\u0301 e\u0308\u0301 \u0301x ͅ α\u0345 \u0345",
    "zero\u200bwidth \u200d \u200c \u2060 \ufeffbom\ufeff", "rtl \u200f \u202e abc \u202c", "soft\u00adhyphen non\u00a0breaking thin\u2009space ideographic\u3000space",
    "\u0000nul \u0001 \u0007bell \u001b[31mred\u001b[0m \u007f \u0080 \u0085 \u009f", "line\r\nbreak\rmac\u2028ls\u2029ps\x0bvt\x0cff", "\x1c\x1d\x1e\x1f sep",
    "“smart” ‘quotes’ „low“ ‚single‛ «guillemets» ‹x› it’s ′ ″ ‟", "– — ― ‐ ‑ … ‥ · • † ‡ ‰", "‼ ⁉ № ℡ ™ ® © ℠",
    "&amp; &lt;b&gt; &quot;x&quot; &eacute; &EACUTE; &nbsp; &#39; &#x27; &hellip;", "&amp;amp;lt; &amp;#233;", "&notanentity; &amp &#; &#x; &#xZZ; & ; &a;",
    "&#0; &#1; &#11; &#13; &#128; &#145; &#150; &#159; &#55296; &#1114112; &#99999999999; &#65534; &#64976; &#x1F600; &#X41; &#0000065;",
    "<b>bold &amp; text</b>", "a &lt; b\n<x>\n&amp;", "x < y &eacute;", "&lt;tag&gt; &amp;", "<b>&amp; schÃ¶n</b>", "&GT; &LT; &AMP; &QUOT; &SZLIG; &ntilde; &nTILDE;",
    "schÃ¶n", "l’Ã©tÃ© Ã  la plage", "voilÃ le travail", "âœ” No problems", "âœ" , "Ã¼ber Ã±andÃº", "cafÃ©", "donâ€™t â€œquoteâ€\x9d", "â€” dash â€“ â€¦",
    "ðŸ˜€ ðŸ\x98\x8d", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "æ—¥æœ¬èªž", "Ã¢â‚¬â„¢", "ÃƒÂ©", "Â© Â® Â£5 Â°C", "Ã", "Ã ", " Ã la mode", "Ã\xa0 Ã¨", "à la Ã quele às",
    "LiÃ¨ge AvenÃ§on", "Ã‰cole Ã€ bientÃ´t", "\x91smart\x92 \x93c1\x94 \x85", "Å‚Ã³dÅº", "ÄŒeÅ¡tina", "Î•Î»Î»Î·Î½Î¹ÎºÎ¬", "√©t√© ‚Äúmac‚Äù", "caf√©", "‚Äî", "рњр°р№", "пїЅ �", "â€œ like this â€�",
    "\ufffd \ufffc \ufff9x\ufffb \ue000 \U000f0000 \ufdd0", "\U0001d54f \U0001d4d0 𝓯𝓪𝓷𝓬𝔂 𝐛𝐨𝐥𝐝 ⓒⓘⓡⓒⓛⓔ 🅰🅱", "H̷e̵l̶l̷o̶", "ﷺ ﷽", "ǅ ᾈ ᾳ ῼ ἀ", "ʼn ʻokina ʼ",
    "<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "a<|endoftext|>b", "<|ENDOFTEXT|> <|EndOfText|>", "<|startoftext|><|startoftext|>", "<|endoftext", "|endoftext|>", "< |endoftext|>", "&lt;|endoftext|&gt;",
    "hello! wow!! !!! ! a!b", "sks dog", "a photo of sks", "SKS task", "<cat-toy> <cat-toy>_1 <cat-toy>_2 x<cat-toy>y", "<Cat-Toy>", "  <cat-toy>  ",
    "x" * 300, "xyz" * 200, "a" * 2000, "ab" * 500, "!" * 100, "1" * 100, "word " * 100, "é" * 200, "猫" * 100, "😀" * 60, "a b c " * 60, "the quick brown fox " * 20, "thethethe" * 40,
    "a, b,, c,,, d", "--- *** ___ ~~~ === +++ ///\\\\\\", "(masterpiece:1.2), [best quality], {detailed}, <lora:x:0.8>", "http://example.com/a?b=c&d=e#f", "user@example.com", "C++ C# .NET node.js", "$100 €50 £20 ¥500 ₽",
    "`code` \"double\" 'single'", "snake_case camelCase PascalCase kebab-case", "3d 2D 16:9 1/2 f/1.8 iso100", "a.b.c...d", "…", "‘", "\u2018\u2019\u201c\u201d", "``tex''", "ʹ ʺ ˈ ˮ",
    "ﾃﾞ ｶﾞ ﾊﾟ", "㍿ ㌔ ㎏ ①", "e\u0301\u0323", "\u1e9b\u0323", "Å\u030a", "q\u0307\u0323", "가", "ᄀ\u1161\u11a8", "\u0958", "\u2126 \u212a \u212b", "\u0340\u0341\u0343\u0344\u0374\u037e\u0387",
    "\u0130 \u0131 I i", "\u01c5\u01c8\u01cb\u01f2", "\u13a0\uab70", "\u10a0\u2d00\u1c90", "\U00010400\U00010428", "\u1e9e", "\u0149", "\u03f4\u03b8", "\u1c80", "\ua64a",
]

POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " .,!?;:'\"-_()[]<>|&#%$@*+=/\\^~`", "   \t\n", "éèüöäßñçøåÆŒ", "’‘“”–—…•", "ÃÂâ€œ™¢\x80\x9d\xa0Å¡ðŸ˜", "αβγΣσςДжщ", "中文日本語한국", "ｱｲｳＡＢＣ１２！", "😀🎨🖼️👍🏽", "\u0301\u0308\u0323\u200d\ufe0f", "\u0000\u0001\u001b\u0085\u200b\ufeff\u2028", "½²③ⅷ٣", "ſﬁﬂﬀĳ",
]
PIECES = ["&amp;", "&eacute;", "&#233;", "&lt;", "<|endoftext|>", "it's", "don’t", "schÃ¶n", "â€™", "red", "circle", "large", " on a ", "background", "<b>", "sks", "<cat-toy>", "!", "photo of "]


def generated(count):
    chance = random.Random(20)
    for _ in range(count):
        pools = chance.sample(POOLS, chance.randint(1, 4)) + [POOLS[0], " "]
        parts = []
        for _ in range(chance.randint(1, 14)):
            if chance.random() < 0.25:
                parts.append(chance.choice(PIECES))
            else:
                pool = chance.choice(pools)
                parts.append("".join(chance.choice(pool) for _ in range(chance.randint(1, 6))))
        yield "".join(parts)


def reference(folder, texts):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    cases = []
    for text in texts:
        plain = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        padded = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
        # The padded form follows from the plain one, the four ids and the length; it is written once in full.
        assert len(padded) == tokenizer.model_max_length
        cases.append([text, plain])
    text = "a red circle on a blue background"
    padded = tokenizer([text, "word " * 100], padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    return {"padded": [[text, padded[0]], ["word " * 100, padded[1]]], "cases": cases}


def write(file, value):
    # A case a line, so that a changed one can be seen.
    lines = []
    for name, part in value.items():
        cases = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in part["cases"])
        padded = json.dumps(part["padded"], ensure_ascii=True, separators=(",", ":"))
        lines.append(f'{json.dumps(name)}: {{"padded": {padded},\n"cases": [\n{cases}\n]}}')
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def clip_folder(bpe, into):
    """CLIP's vocabulary as the reference's conversion lays it out."""
    merges = gzip.open(bpe, "rt", encoding="utf-8").read().split("\n")
    merges = merges[1 : 49152 - 256 - 2 + 1]
    printable = list(range(ord("!"), ord("~") + 1)) + list(range(ord("¡"), ord("¬") + 1)) + list(range(ord("®"), ord("ÿ") + 1))
    characters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = characters + [c + "</w>" for c in characters] + ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    into.mkdir(parents=True, exist_ok=True)
    (into / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (into / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (into / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bpe", type=pathlib.Path)
    parser.add_argument("--into", type=pathlib.Path)
    parser.add_argument("--generated", type=int, default=400)
    arguments = parser.parse_args()
    texts = TEXTS + list(generated(arguments.generated))
    if arguments.bpe:
        clip_folder(arguments.bpe, arguments.into)
        write(arguments.into / "reference.json", {"clip": reference(arguments.into, texts)})
        return
    with tempfile.TemporaryDirectory() as legacy:
        for name in ["vocab.json", "merges.txt"]:
            shutil.copy(HERE / "vocabulary" / name, legacy)
        for file in (HERE / "legacy").iterdir():
            shutil.copy(file, legacy)
        write(HERE / "reference.json", {"vocabulary": reference(HERE / "vocabulary", texts), "legacy": reference(legacy, texts[: len(TEXTS)])})


if __name__ == "__main__":
    main()
