"""The autoencoder: f = 8, four latent channels, in the shape of Stable Diffusion 1.5's.

Two stages. `train` teaches encoder and decoder together; then the latents' mean and deviation are
folded into the 1 x 1 convolutions around them, which makes 0.18215 the exact scaling factor.
`sharpen` then goes on with the decoder alone, edges weighted; latents stay what they are, so the
denoiser may be trained at the same time.

What a denoiser finds hard is telling colours apart whose latents lie near each other (yellow and
orange, blue and purple): through strong noise they look the same. So while `train` runs, a linear
probe has to name the colour of every plain cell from its latent with noise added, and the encoder
learns to spread the named colours. The probe is thrown away afterwards.
"""

import random
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from grammar import COLOURS, training_scene
from progress import Stage, apply_rate
from render import render, render_free

SCALING_FACTOR = 0.18215
CHANNELS = (16, 32, 64, 64)
POOL_IMAGES = 10_000
FREE_SHARE = 0.25
CROP_SIZE = 32
CROP_SHARE = 0.65  # of the first stage, on crops, which cost a quarter
BATCH_CROPS, BATCH_IMAGES = 32, 16
KL_WEIGHT = 5e-4
TRAIN_RATE, SHARPEN_RATE = 2e-3, 1e-3
EDGE_WEIGHT = 5.0
PROBE_WEIGHT = 0.05
PROBE_NOISE = 0.5  # in deviations of the latents
NO_COLOUR = -100  # cross_entropy's ignore_index
PLAIN_CELL = 0.03  # -1...1: a cell that varies, or differs from its colour, by less than this is plain
LATENT_NOISE = 0.1  # up to this many deviations, as the denoiser's latents are never quite right
ENCODE_BATCH = 50


def build() -> AutoencoderKL:
    model = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=64, block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1, norm_num_groups=8, scaling_factor=SCALING_FACTOR)
    return model.to(memory_format=torch.channels_last)


def to_tensor(images: numpy.ndarray) -> torch.Tensor:
    """u8 [n, h, w, 3] to f32 [n, 3, h, w] in -1...1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def image_pool(seed: int) -> numpy.ndarray:
    """u8 [POOL_IMAGES, 64, 64, 3]: scenes of the grammar and freely strewn shapes, mixed."""
    rng = random.Random(seed)
    images = [render_free(rng) if rng.random() < FREE_SHARE else render(training_scene(rng), rng)
              for _ in range(POOL_IMAGES)]
    return numpy.stack(images)


def edges(target: torch.Tensor) -> torch.Tensor:
    """1 at and beside edges of `target` [n, 3, h, w], else 0: [n, 1, h, w]."""
    low = -functional.max_pool2d(-target, 3, 1, 1)
    high = functional.max_pool2d(target, 3, 1, 1)
    return ((high - low).amax(1, keepdim=True) > 0.15).float()


def colour_labels(target: torch.Tensor) -> torch.Tensor:
    """Index in COLOURS of each plain 8 x 8 cell of `target` [n, 3, h, w], else NO_COLOUR: i64 [n, h/8, w/8]."""
    named = torch.tensor(list(COLOURS.values())) / 127.5 - 1.0
    high, low = functional.max_pool2d(target, 8), -functional.max_pool2d(-target, 8)
    apart = ((high + low)[:, None] / 2 - named[None, :, :, None, None]).abs().amax(2)
    error, label = apart.min(1)
    plain = ((high - low).amax(1) < PLAIN_CELL) & (error < PLAIN_CELL)
    return label.where(plain, NO_COLOUR)


def difference(output: torch.Tensor, target: torch.Tensor, edge_weight: float = 0.0) -> torch.Tensor:
    """L1 + L2, pixels at edges counting 1 + `edge_weight` times, normalised by the weights."""
    weight = 1 + edge_weight * edges(target)
    delta = output - target
    return (weight * (delta.abs() + delta.square())).mean() / weight.mean()


def peak_signal_to_noise(model: AutoencoderKL, images: numpy.ndarray) -> float:
    """dB over `images`, through the latents' means."""
    target = to_tensor(images)
    with torch.no_grad():
        output = model.decode(model.encode(target).latent_dist.mean).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / (output - target).square().mean()))


def validation_images(seed: int, count: int = 48) -> numpy.ndarray:
    rng = random.Random(f"validation {seed}")
    return numpy.stack([render(training_scene(rng), rng) for _ in range(count)])


def train(stage: Stage, seed: int, finished: Path) -> None:
    torch.manual_seed(seed)
    model = build()
    probe = torch.nn.Conv2d(4, len(COLOURS), 1)
    learned = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=TRAIN_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    if state := stage.resume():
        model.load_state_dict(state["model"])
        probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
    pool, check = image_pool(seed), validation_images(seed)
    print(f"autoencoder: {len(pool)} images drawn", flush=True)
    while stage.fraction < 1.0:
        rng = numpy.random.default_rng([seed, stage.step])
        noise = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        crops = stage.fraction < CROP_SHARE
        batch = pool[rng.integers(len(pool), size=BATCH_CROPS if crops else BATCH_IMAGES)]
        if crops:
            top, left = rng.integers(64 - CROP_SIZE + 1, size=2)
            batch = batch[:, top:top + CROP_SIZE, left:left + CROP_SIZE]
        target = to_tensor(batch).contiguous(memory_format=torch.channels_last)
        posterior = model.encode(target).latent_dist
        output = model.decode(posterior.sample(generator=noise)).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        strong = PROBE_NOISE * posterior.mean.std((0, 2, 3), keepdim=True)
        asked = posterior.mean + strong * torch.randn(posterior.mean.shape, generator=noise)
        named = functional.cross_entropy(probe(asked), colour_labels(target), ignore_index=NO_COLOUR)
        loss = difference(output, target) + KL_WEIGHT * kl + PROBE_WEIGHT * named
        apply_rate(optimizer, stage.rate(TRAIN_RATE, 100))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        stage.step += 1
        stage.save_if_due(lambda: {
            "model": model.state_dict(), "probe": probe.state_dict(), "optimizer": optimizer.state_dict()})
        stage.report(lambda: f"loss {loss.item():.4f}  kl {kl.item():.2f}  probe {named.item():.2f}  "
                             f"{peak_signal_to_noise(model, check):.2f} dB")
    fold(model, pool[:2000])
    model.save_pretrained(finished)


@torch.no_grad()
def fold(model: AutoencoderKL, images: numpy.ndarray) -> None:
    """Shifts and scales the latents to mean 0 and deviation 1 / SCALING_FACTOR in each channel.

    The inverse goes into `post_quant_conv`, so that decoding an encoding is unchanged.
    """
    latents = encode_means(model, images)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (deviation * SCALING_FACTOR)
    weight, bias = model.quant_conv.weight, model.quant_conv.bias
    weight[:4] *= gain[:, None, None, None]
    bias[:4] = (bias[:4] - mean) * gain
    bias[4:] += 2 * gain.log()  # the second half is the logarithm of the variance
    after = model.post_quant_conv
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight /= gain[None, :, None, None]


@torch.no_grad()
def encode_means(model: AutoencoderKL, images: numpy.ndarray) -> torch.Tensor:
    """Means of the latents, f32 [n, 4, 8, 8], not yet times the scaling factor."""
    parts = [model.encode(to_tensor(images[i:i + ENCODE_BATCH])).latent_dist.mean
             for i in range(0, len(images), ENCODE_BATCH)]
    return torch.cat(parts).contiguous()


def sharpen(stage: Stage, seed: int, trained: Path, finished: Path) -> None:
    model = AutoencoderKL.from_pretrained(trained).to(memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    learned = [*model.post_quant_conv.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=SHARPEN_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    if state := stage.resume():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    pool, check = image_pool(seed), validation_images(seed)
    latents = encode_means(model, pool)
    print(f"decoder: {len(pool)} latents encoded", flush=True)
    while stage.fraction < 1.0:
        noise = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        rows = torch.randint(len(pool), (BATCH_IMAGES,), generator=noise)
        target = to_tensor(pool[rows.numpy()]).contiguous(memory_format=torch.channels_last)
        strength = LATENT_NOISE / SCALING_FACTOR * torch.rand(BATCH_IMAGES, 1, 1, 1, generator=noise)
        disturbed = latents[rows] + strength * torch.randn(latents[rows].shape, generator=noise)
        loss = difference(model.decode(disturbed).sample, target, EDGE_WEIGHT)
        apply_rate(optimizer, stage.rate(SHARPEN_RATE, 50))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        stage.step += 1
        stage.save_if_due(lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        stage.report(lambda: f"loss {loss.item():.4f}  {peak_signal_to_noise(model, check):.2f} dB")
    model.save_pretrained(finished)
