"""Trains the demo model from nothing and writes it in diffusers' layout.

    ./train.sh --work-dir ~/.cache/emulsion/demo-training --output ../demo

Stages: tokenizer, autoencoder, latents, decoder, denoiser, export. Each leaves its result in the
work folder and is skipped when that is there; a stopped run continues from its last checkpoint.
`decoder` and `denoiser` need only what comes before `decoder`: two processes may run them at once.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler

import autoencoder
import bpe
import denoiser
from progress import Stage

SEED = 15
STAGES = ("tokenizer", "autoencoder", "latents", "decoder", "denoiser", "export")
STEPS = {"autoencoder": 2_331, "decoder": 1_600, "denoiser": 3_200}

PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.36.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(work: Path, output: Path) -> None:
    """Copies the finished parts to `output`, weights in f16."""
    output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(work / "tokenizer", output / "tokenizer", dirs_exist_ok=True)
    AutoencoderKL.from_pretrained(work / "decoder").half().save_pretrained(output / "vae")
    text_encoder, unet = denoiser.load(work / "denoiser")
    text_encoder.half().save_pretrained(output / "text_encoder")
    unet.half().save_pretrained(output / "unet")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
        timestep_spacing="leading").save_pretrained(output / "scheduler")
    (output / "model_index.json").write_text(json.dumps(PIPELINE, indent=2) + "\n")
    for part in ("vae", "unet", "text_encoder"):
        path = output / part / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in output.rglob("*.safetensors"):
        path.chmod(0o644)


def run_stage(name: str, options: argparse.Namespace) -> None:
    work, seed, finished = options.work_dir, options.seed, options.work_dir / name
    if name == "export":
        return export(work, options.output)
    if finished.exists():
        return print(f"{name}: already done", flush=True)
    partial = work / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    stage = Stage(name, work, options.steps.get(name, STEPS.get(name, 1)), options.minutes.get(name))
    if name == "tokenizer":
        bpe.write_tokenizer(partial, seed)
    elif name == "autoencoder":
        autoencoder.train(stage, seed, partial)
    elif name == "latents":
        denoiser.prepare_latents(seed + 1, work / "autoencoder", partial)
    elif name == "decoder":
        autoencoder.sharpen(stage, seed + 2, work / "autoencoder", partial)
    elif name == "denoiser":
        denoiser.train(stage, seed + 3, work / "latents", work / "tokenizer", partial)
    partial.rename(finished)


def per_stage(text: str) -> dict[str, float]:
    """`autoencoder=10,decoder=20` as a table."""
    pairs = (item.split("=") for item in text.split(",") if item)
    return {name: float(value) for name, value in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path.home() / ".cache/emulsion/demo-training",
                        help="intermediate results and checkpoints")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent.parent / "demo")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, in this order")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=per_stage, default={}, help="e.g. autoencoder=100,denoiser=100")
    parser.add_argument("--minutes", type=per_stage, default={}, help="end a stage after so long, whatever its steps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    chosen = options.stages.split(",")
    if unknown := set(chosen) - set(STAGES):
        parser.error(f"unknown stages {sorted(unknown)}; there are {', '.join(STAGES)}")
    for name in STAGES:
        if name in chosen:
            run_stage(name, options)


if __name__ == "__main__":
    main()
