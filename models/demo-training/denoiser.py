"""Text encoder and UNet in the shape of Stable Diffusion 1.5's, trained together on cached latents."""

import copy
import random
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import bpe
from autoencoder import SCALING_FACTOR, encode_means
from grammar import Scene, training_prompt, training_scene
from progress import Stage, apply_rate
from render import render

POOL_SCENES = 16_000
BATCH = 64
RATE = 1e-3
WARM_UP_STEPS = 150
AVERAGE_DECAY = 0.992
AVERAGE_EVERY_STEPS = 4
TRAIN_TIMESTEPS = 1000


def build(seed: int) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=bpe.VOCABULARY_SIZE, hidden_size=96, intermediate_size=192, projection_dim=96,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=bpe.MAX_TOKENS,
        hidden_act="quick_gelu", bos_token_id=bpe.START_ID, eos_token_id=bpe.END_ID, pad_token_id=bpe.END_ID))
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128, 128, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=96, attention_head_dim=4, norm_num_groups=16)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return text_encoder, unet.to(memory_format=torch.channels_last)


def pool_scenes(seed: int) -> list[Scene]:
    rng = random.Random(seed)
    return [training_scene(rng) for _ in range(POOL_SCENES)]


def prepare_latents(seed: int, autoencoder: Path, folder: Path) -> None:
    """Latents of POOL_SCENES pictures, times the scaling factor: f32 [n, 4, 8, 8]."""
    model = AutoencoderKL.from_pretrained(autoencoder).to(memory_format=torch.channels_last)
    rng = random.Random(f"pictures {seed}")
    images = numpy.stack([render(scene, rng) for scene in pool_scenes(seed)])
    latents = encode_means(model, images) * SCALING_FACTOR
    print(f"latents: mean {latents.mean():.3f}, deviation {latents.std():.3f}", flush=True)
    folder.mkdir()
    save_file({"latents": latents, "seed": torch.tensor(seed)}, folder / "latents.safetensors")


@torch.no_grad()
def follow(average: dict, parameters: dict, decay: float) -> None:
    """Moves the running average towards the parameters."""
    names = list(average)
    torch._foreach_lerp_([average[n] for n in names], [parameters[n].detach() for n in names], 1 - decay)


def stratified_timesteps(generator: torch.Generator) -> torch.Tensor:
    """One timestep from each of BATCH equal spans, i64 [BATCH]."""
    spans = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
    return (spans * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


def save(folder: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, average: dict) -> None:
    """Writes both models with the averaged weights; the models themselves are left as they are."""
    for name, model in (("text_encoder", text_encoder), ("unet", unet)):
        weights = {key[len(name) + 1:]: value for key, value in average.items() if key.startswith(name + ".")}
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(weights, strict=False)  # buffers, such as position ids, are not averaged
        averaged.save_pretrained(folder / name)


def load(folder: Path) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    return CLIPTextModel.from_pretrained(folder / "text_encoder"), UNet2DConditionModel.from_pretrained(folder / "unet")


def train(stage: Stage, seed: int, latents_folder: Path, tokenizer_folder: Path, finished: Path) -> None:
    text_encoder, unet = build(seed)
    both = torch.nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})
    parameters = dict(both.named_parameters())
    average = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    if state := stage.resume():
        both.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    pool = load_file(latents_folder / "latents.safetensors")
    latents, scenes = pool["latents"], pool_scenes(int(pool["seed"]))
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    running = None
    while stage.fraction < 1.0:
        draws = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        words = random.Random(f"{seed} {stage.step}")
        rows = torch.randint(len(latents), (BATCH,), generator=draws)
        prompts = [training_prompt(scenes[row], words) for row in rows.tolist()]
        tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise = torch.randn(latents[rows].shape, generator=draws)
        timesteps = stratified_timesteps(draws)
        noisy = schedule.add_noise(latents[rows], noise, timesteps)
        predicted = unet(noisy, timesteps, text_encoder(tokens).last_hidden_state).sample
        loss = functional.mse_loss(predicted, noise)
        apply_rate(optimizer, stage.rate(RATE, WARM_UP_STEPS))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        stage.step += 1
        if stage.step % AVERAGE_EVERY_STEPS == 0:
            follow(average, parameters, min(AVERAGE_DECAY, stage.step / (40 + stage.step)))
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        stage.save_if_due(lambda: {
            "model": both.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
        stage.report(lambda: f"loss {running:.4f}  {stage.step * BATCH / stage.elapsed_s:.0f} images/s")
    save(finished, text_encoder, unet, average)
