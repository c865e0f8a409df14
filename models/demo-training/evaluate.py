"""Judges the demo model on combinations it was never trained on.

    ./evaluate.sh                                 draws with diffusers and judges
    ./evaluate.sh --runtime emulsion-runtime      draws with the product's own engine and judges
    ./evaluate.sh --write-prompts prompts.json    only writes what to draw
    ./evaluate.sh --images DIR                    judges DIR/*.png against DIR/prompts.json

prompts.json is a list of {"file", "prompt"}; what else stands there (seed, steps, guidance_scale,
negative_prompt, sampler) says how each was drawn. The exit status is 1 when a figure misses its mark.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy
from PIL import Image

from grammar import SHAPES, Scene, canonical_prompt, held_out_triples, parse_prompt
from judge import Verdict, judge, read

# share of pictures that must be right, by what is judged
MARKS = {"colours": 0.98, "shape": 0.95, "size": 0.95, "centred": 0.95}
SIZES_ASKED = ("small", "large", None)
BATCH = 14
SAMPLERS = ("DDIMScheduler", "EulerDiscreteScheduler")
RUNTIME_TIMEOUT_S = 120


def held_out_prompts(options: argparse.Namespace) -> list[dict]:
    """Each held-out triple, small, large and unsized, `--seeds` times, with how to draw it.

    With --no-background these are the same colours and shapes, on whatever the model puts behind them.
    """
    wanted = []
    triples = held_out_triples()
    if options.no_background:
        triples = [(colour, shape, None) for colour, shape in sorted({triple[:2] for triple in triples})]
    for number in range(options.seeds):
        for colour, shape, background in triples:
            for size in SIZES_ASKED:
                seed = 1000 * (number + 1) + len(wanted)
                wanted.append({
                    "file": f"{len(wanted):04}.png",
                    "prompt": canonical_prompt(Scene(colour, shape, background, size)),
                    "negative_prompt": options.negative_prompt, "seed": seed, "steps": options.steps,
                    "guidance_scale": options.guidance_scale, "sampler": options.sampler})
    return wanted


def draw_with_diffusers(model: Path, wanted: list[dict], folder: Path) -> None:
    import diffusers
    import torch

    torch.set_num_threads(1)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline.scheduler.config
    for start in range(0, len(wanted), BATCH):
        part = wanted[start:start + BATCH]
        pipeline.scheduler = getattr(diffusers, part[0]["sampler"]).from_config(plain)
        images = pipeline(
            [item["prompt"] for item in part], negative_prompt=[item["negative_prompt"] for item in part],
            width=64, height=64, num_inference_steps=part[0]["steps"], guidance_scale=part[0]["guidance_scale"],
            generator=[torch.Generator().manual_seed(item["seed"]) for item in part]).images
        for item, image in zip(part, images):
            image.save(folder / item["file"])


def draw_with_runtime(binary: str, model: Path, wanted: list[dict], folder: Path) -> None:
    for item in wanted:
        command = [
            binary, "generate", "--model", model, "--prompt", item["prompt"],
            "--negative-prompt", item["negative_prompt"], "--width", 64, "--height", 64, "--steps", item["steps"],
            "--guidance-scale", item["guidance_scale"], "--sampler", item["sampler"], "--seed", item["seed"],
            "--output", folder / item["file"]]
        subprocess.run([str(word) for word in command], check=True, timeout=RUNTIME_TIMEOUT_S,
                       stdout=subprocess.DEVNULL)


def judge_folder(folder: Path, wanted: list[dict]) -> list[tuple[Scene, Verdict]]:
    """Judges each listed file; prints those that are not right, with what they show instead."""
    results = []
    for item in wanted:
        asked = parse_prompt(item["prompt"])
        image = numpy.asarray(Image.open(folder / item["file"]).convert("RGB"))
        verdict = judge(image, asked)
        results.append((asked, verdict))
        if not verdict.everything:
            seen = read(image)
            print(f"  {item['file']}  {item['prompt']!r} shows {seen.size} {seen.colour} {seen.shape} on "
                  f"{seen.background}, overlap {seen.overlap:.2f}{'' if seen.centred else ', not centred'}")
    return results


def summarise(results: list[tuple[Scene, Verdict]]) -> bool:
    """Prints shares by what is judged, by size and by shape asked for; true when every mark is met."""
    if not results:
        raise SystemExit("there is nothing to judge: the list of prompts is empty")
    columns = ("colour", "background", "colours", "shape", "size", "centred", "everything")
    print(f"{'':>10} {'images':>7} " + " ".join(f"{name:>10}" for name in columns))

    def row(label: str, chosen: list[Verdict]) -> dict[str, float]:
        shares = {name: sum(getattr(v, name) for v in chosen) / len(chosen) for name in columns}
        print(f"{label:>10} {len(chosen):>7} " + " ".join(f"{shares[name]:>10.1%}" for name in columns))
        return shares

    for size in SIZES_ASKED:
        if chosen := [verdict for asked, verdict in results if asked.size == size]:
            row(size or "no size", chosen)
    for shape in SHAPES:
        if chosen := [verdict for asked, verdict in results if asked.shape == shape]:
            row(shape, chosen)
    total = row("all", [verdict for _, verdict in results])
    missed = [f"{name} {total[name]:.1%} < {mark:.0%}" for name, mark in MARKS.items() if total[name] < mark]
    print("missed: " + ", ".join(missed) if missed else "every mark is met: " +
          ", ".join(f"{name} >= {mark:.0%}" for name, mark in MARKS.items()))
    return not missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent / "demo")
    parser.add_argument("--images", type=Path, help="judge this folder's PNG files and prompts.json, draw nothing")
    parser.add_argument("--write-prompts", type=Path, help="write the list of what to draw, and end")
    parser.add_argument("--runtime", help="draw with this emulsion-runtime instead of diffusers")
    parser.add_argument("--work-dir", type=Path, default=Path.home() / ".cache/emulsion/demo-evaluation",
                        help="where drawn pictures go")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each prompt; 84 prompts")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--no-background", action="store_true", help="leave the background out of the prompts")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: both, one after the other")
    options = parser.parse_args()
    if options.images:
        wanted = json.loads((options.images / "prompts.json").read_text())
        sys.exit(0 if summarise(judge_folder(options.images, wanted)) else 1)
    met = True
    for sampler in [options.sampler] if options.sampler else SAMPLERS:
        options.sampler = sampler
        wanted = held_out_prompts(options)
        if options.write_prompts:
            options.write_prompts.write_text(json.dumps(wanted, indent=1) + "\n")
            return
        folder = options.work_dir / sampler
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prompts.json").write_text(json.dumps(wanted, indent=1) + "\n")
        if options.runtime:
            draw_with_runtime(options.runtime, options.model, wanted, folder)
        else:
            draw_with_diffusers(options.model, wanted, folder)
        print(f"{sampler}, {options.steps} steps, guidance {options.guidance_scale:g}, "
              f"negative prompt {options.negative_prompt!r}")
        met &= summarise(judge_folder(folder, wanted))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
