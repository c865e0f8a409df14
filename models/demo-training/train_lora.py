"""Teaches the frozen demo model a shape it does not know, as a LoRA in kohya's names, and judges it.

    ./train_lora.sh                              trains, judges, writes ../demo-lora/ring.safetensors
    ./train_lora.sh --judge FILE                 only judges; with --runtime the product's own engine draws

The exit status is 1 when a figure misses its mark.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

import grammar
import render
import ring
from autoencoder import SCALING_FACTOR, encode_means
from grammar import COLOURS, SIZES, Scene, canonical_prompt

FOLDER = Path(__file__).resolve().parent
SEED = 23
STEPS = 600
BATCH = 32
# Rings in a batch; the rest are scenes of the base with their own prompts, so that nothing else is forgotten.
RINGS = 20
RATE = 3e-3
RANK = 6
UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
TRAIN_TIMESTEPS = 1000
MAX_FILE_BYTES = 1_000_000
# share of held-out pictures that must be right with the LoRA, and may at most show a ring without it
MARKS = {"ring": 0.9, "colours": 0.9}
MAX_RINGS_OF_BASE = 0.1
DRAW_STEPS = 20
GUIDANCE_SCALE = 5.0
RUNTIME_TIMEOUT_S = 120


def scenes(rng: random.Random) -> tuple[list[numpy.ndarray], list[str]]:
    """Pictures u8 [64, 64, 3] and prompts of one batch."""
    pictures, prompts = [], []
    for _ in range(RINGS):
        scene = ring.training_scene(rng)
        pictures.append(ring.render(scene, rng))
        prompts.append(ring.training_prompt(scene, rng))
    for _ in range(BATCH - RINGS):
        scene = grammar.training_scene(rng)
        pictures.append(render.render(scene, rng))
        prompts.append(grammar.training_prompt(scene, rng))
    return pictures, prompts


def timesteps(generator: torch.Generator) -> torch.Tensor:
    """One from each of BATCH equal spans, more often high: what a shape is, is decided where the noise is strong."""
    spans = (torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)) / BATCH
    return (spans.sqrt() * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


def train(model: Path, steps: int, seed: int) -> dict[str, torch.Tensor]:
    """The LoRA's tensors, f16, in kohya's names."""
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder").float().requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(seed)
    for part, layers in ((unet, UNET_LAYERS), (text_encoder, TEXT_LAYERS)):
        part.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers))
    learned = [value for part in (unet, text_encoder) for value in part.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    running = None
    for step in range(steps):
        rng, draws = random.Random(f"{seed} {step}"), torch.Generator().manual_seed(seed * 1_000_003 + step)
        pictures, prompts = scenes(rng)
        with torch.no_grad():
            latents = encode_means(vae, numpy.stack(pictures)) * SCALING_FACTOR
        tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise, at = torch.randn(latents.shape, generator=draws), timesteps(draws)
        predicted = unet(schedule.add_noise(latents, noise, at), at, text_encoder(tokens).last_hidden_state).sample
        loss = (predicted - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        rates.step()
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        if (step + 1) % 25 == 0:
            print(f"lora: step {step + 1} of {steps}, loss {running:.4f}", flush=True)
    return kohya("lora_unet", unet) | kohya("lora_te", text_encoder)


def kohya(prefix: str, part: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The part's LoRA as kohya names it, without alphas: each is the rank, which is what none means."""
    ends = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
    named = {}
    for name, value in get_peft_model_state_dict(part).items():
        end = next(end for end in ends if name.endswith(end))
        module = name.removesuffix(end).replace(".", "_")
        named[f"{prefix}_{module}{ends[end]}"] = value.detach().half().contiguous()
    return named


def held_out() -> list[Scene]:
    """Held-out colours, small, large and without a size, three of each."""
    colours = sorted(ring.HELD_OUT)
    return [Scene(colour, ring.SHAPE, background, size) for colour, background in colours for size in (*SIZES, None)] * 3


def draw(model: Path, lora: Path | None, wanted: list[Scene]) -> list[numpy.ndarray]:
    """Pictures by diffusers, u8 [64, 64, 3]."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    pictures = []
    for start in range(0, len(wanted), BATCH):
        part = wanted[start:start + BATCH]
        pictures += pipeline(
            [canonical_prompt(scene) for scene in part], width=render.IMAGE_SIZE, height=render.IMAGE_SIZE,
            num_inference_steps=DRAW_STEPS, guidance_scale=GUIDANCE_SCALE,
            generator=[torch.Generator().manual_seed(start + number) for number in range(len(part))]).images
    return [numpy.asarray(picture) for picture in pictures]


def draw_with_runtime(binary: str, model: Path, lora: Path | None, wanted: list[Scene]) -> list[numpy.ndarray]:
    """The same by the product's own engine."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        for seed, scene in enumerate(wanted):
            command = [
                binary, "generate", "--model", model, "--prompt", canonical_prompt(scene), "--width", render.IMAGE_SIZE,
                "--height", render.IMAGE_SIZE, "--steps", DRAW_STEPS, "--guidance-scale", GUIDANCE_SCALE, "--seed", seed,
                "--output", file, *(["--adapter", lora] if lora else [])]
            subprocess.run([str(word) for word in command], check=True, timeout=RUNTIME_TIMEOUT_S, stdout=subprocess.DEVNULL)
            pictures.append(numpy.asarray(Image.open(file).convert("RGB")))
    return pictures


def evaluate(options: argparse.Namespace, lora: Path) -> bool:
    """Prints the shares of rings and of right colours on held-out scenes, with and without the LoRA."""
    wanted = held_out()

    def shares(adapter: Path | None) -> tuple[float, float]:
        if options.runtime:
            pictures = draw_with_runtime(options.runtime, options.model, adapter, wanted)
        else:
            pictures = draw(options.model, adapter, wanted)
        verdicts = [ring.judge(picture, scene) for picture, scene in zip(pictures, wanted)]
        return tuple(sum(column) / len(wanted) for column in zip(*verdicts))

    (rings, colours), (base_rings, _) = shares(lora), shares(None)
    print(f"{len(wanted)} held-out rings: {rings:.1%} are rings, {colours:.1%} in the colours asked for; "
          f"without the LoRA {base_rings:.1%} are rings")
    met = rings >= MARKS["ring"] and colours >= MARKS["colours"] and base_rings <= MAX_RINGS_OF_BASE
    print("every mark is met" if met else f"missed: ring and colours need {MARKS}, the base at most {MAX_RINGS_OF_BASE:.0%}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER.parent / "demo")
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "demo-lora" / "ring.safetensors")
    parser.add_argument("--judge", type=Path, help="only judge this file")
    parser.add_argument("--runtime", help="draw with this emulsion-runtime instead of diffusers")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = options.judge
    if not file:
        file = options.output
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(train(options.model, options.steps, options.seed), file)
        file.chmod(0o644)
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            sys.exit(f"{file} has {size} bytes, more than {MAX_FILE_BYTES}: train with a lower rank")
        print(f"{file}: {size} bytes")
    sys.exit(0 if evaluate(options, file) else 1)


if __name__ == "__main__":
    main()
