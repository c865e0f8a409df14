"""Writes sheet.png, pictures of the demo model with their prompts beneath.

    python sheet.py --model ../demo --output sheet.png
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from evaluate import draw_with_diffusers
from grammar import HELD_OUT_SET, Scene, canonical_prompt, held_out_triples, parse_prompt

PROMPTS = (
    "a red circle on a blue background", "a large yellow star on a black background",
    "a small white cross on a red background", "an orange square on a purple background",
    "a green triangle on a white background", "a large purple star on a yellow background",
)
COLUMNS = 6
TILE_PX, GAP_PX, CAPTION_PX = 128, 10, 46
SEED = 7


def prompts() -> list[str]:
    """Some prompts anybody would try, then one of each held-out kind."""
    sizes = ("large", "small", None)
    by_shape = sorted(held_out_triples(), key=lambda triple: (triple[1], triple))
    chosen = by_shape[::2][:12]
    held = [canonical_prompt(Scene(*triple, sizes[i % 3])) for i, triple in enumerate(chosen)]
    return [*PROMPTS, *held]


def caption(draw: ImageDraw.ImageDraw, text: str, left: int, top: int, font: ImageFont.ImageFont) -> None:
    """Writes `text` in lines no wider than a tile."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if draw.textlength(longer, font=font) > TILE_PX and line:
            lines.append(line)
            line = word
        else:
            line = longer
    draw.multiline_text((left, top), "\n".join([*lines, line]), fill=(40, 40, 40), font=font, spacing=2)


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=here.parent / "demo")
    parser.add_argument("--output", type=Path, default=here / "sheet.png")
    options = parser.parse_args()
    wanted = [{"file": f"{i}.png", "prompt": prompt, "negative_prompt": "blurry", "seed": SEED + i, "steps": 20,
               "guidance_scale": 5.0, "sampler": "DDIMScheduler"} for i, prompt in enumerate(prompts())]
    rows = -(-len(wanted) // COLUMNS)
    sheet = Image.new("RGB", (GAP_PX + COLUMNS * (TILE_PX + GAP_PX), GAP_PX + rows * (TILE_PX + CAPTION_PX)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    with tempfile.TemporaryDirectory() as folder:
        draw_with_diffusers(options.model, wanted, Path(folder))
        for index, item in enumerate(wanted):
            left = GAP_PX + index % COLUMNS * (TILE_PX + GAP_PX)
            top = GAP_PX + index // COLUMNS * (TILE_PX + CAPTION_PX)
            tile = Image.open(Path(folder) / item["file"]).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left, top))
            mark = " [held out]" if parse_prompt(item["prompt"]).triple in HELD_OUT_SET else ""
            caption(draw, item["prompt"] + mark, left, top + TILE_PX + 3, font)
    sheet.quantize(256, dither=Image.Dither.NONE).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
