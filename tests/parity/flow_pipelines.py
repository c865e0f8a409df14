"""Tiny pipelines of flow matching with random weights: Stable Diffusion 3 and 3.5, Flux.1 dev and schnell.

T5's tokenizer is the one that the runtime's own tests compare with transformers.
"""

import pathlib
import shutil

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

import tiny_tokenizer
from tiny_networks import autoencoder, clip, ends, randomise

UNIGRAM = pathlib.Path(__file__).resolve().parents[2] / "runtime" / "diffusion" / "tests" / "unigram" / "vocabulary"
NAMES = ["sd3", "sd3-without-t5", "sd35-medium", "sd35-large", "flux-dev", "flux-schnell"]

GAIN = 1.5
CHANNELS = 16
TEXT_WIDTH = 64
CLIP_WIDTHS = (32, 24)
CLIP_PROJECTIONS = (12, 20)


def t5(vocabulary_size, seed):
    """Heads that together are narrower than a token, and distances beyond the exact ones."""
    torch.manual_seed(seed)
    encoder = T5EncoderModel(
        T5Config(vocab_size=vocabulary_size, d_model=TEXT_WIDTH, d_kv=8, d_ff=96, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu")
    )
    randomise(encoder, seed, GAIN)
    with torch.no_grad():
        encoder.shared.weight.normal_(std=1.0)
        encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_(std=1.0)
    return encoder.eval()


def mmdit(seed, **changes):
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        **{
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": TEXT_WIDTH,
            "caption_projection_dim": 32,
            "pooled_projection_dim": sum(CLIP_PROJECTIONS),
            "pos_embed_max_size": 12,
        }
        | changes
    )
    randomise(transformer, seed, GAIN)
    with torch.no_grad():
        probe = transformer(torch.randn(1, CHANNELS, 8, 16), torch.randn(1, 9, TEXT_WIDTH), torch.randn(1, sum(CLIP_PROJECTIONS)), torch.tensor([500.0])).sample
        transformer.proj_out.weight.mul_(1 / probe.std())
    return transformer


def flux(seed, guidance):
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=CLIP_WIDTHS[0],
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    randomise(transformer, seed, GAIN)
    with torch.no_grad():
        probe = transformer(
            hidden_states=torch.randn(1, 32, 4 * CHANNELS),
            encoder_hidden_states=torch.randn(1, 9, TEXT_WIDTH),
            pooled_projections=torch.randn(1, CLIP_WIDTHS[0]),
            timestep=torch.tensor([0.5]),
            img_ids=torch.zeros(32, 3),
            txt_ids=torch.zeros(9, 3),
            guidance=torch.tensor([3.5]) if guidance else None,
        ).sample
        transformer.proj_out.weight.mul_(1 / probe.std())
    return transformer


def make(folder: pathlib.Path):
    """Writes every pipeline of NAMES below `folder`; the same bytes each time."""
    vocabulary_size = tiny_tokenizer.write(folder / "flow-tokenizer")
    byte_pairs = [str(folder / "flow-tokenizer" / name) for name in ["vocab.json", "merges.txt"]]
    tokenizer = CLIPTokenizer(*byte_pairs, model_max_length=77)
    # The second one pads with another token, as in the real ones.
    second = CLIPTokenizer(*byte_pairs, model_max_length=77, pad_token="!")
    unigram = T5TokenizerFast.from_pretrained(UNIGRAM)
    clips = [
        clip(CLIPTextModelWithProjection, vocabulary_size, width, seed, layers=3, hidden_act=activation, projection_dim=projection, **ends(vocabulary_size))
        for width, projection, seed, activation in zip(CLIP_WIDTHS, CLIP_PROJECTIONS, [11, 12], ["quick_gelu", "gelu"])
    ]
    third = t5(len(unigram), 13)
    vae = autoencoder(14, latent_channels=CHANNELS, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)

    def sd3(name, transformer, t5_encoder=third, shift=3.0):
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=vae,
            text_encoder=clips[0],
            tokenizer=tokenizer,
            text_encoder_2=clips[1],
            tokenizer_2=second,
            text_encoder_3=t5_encoder,
            tokenizer_3=unigram if t5_encoder is not None else None,
        ).save_pretrained(folder / name)

    plain = mmdit(15)
    sd3("sd3", plain)
    sd3("sd3-without-t5", plain, t5_encoder=None)
    sd3("sd35-medium", mmdit(16, qk_norm="rms_norm", dual_attention_layers=(0, 1)))
    sd3("sd35-large", mmdit(17, qk_norm="rms_norm"), shift=2.5)

    pooled = clip(CLIPTextModel, vocabulary_size, CLIP_WIDTHS[0], 18, layers=3, hidden_act="quick_gelu", projection_dim=CLIP_WIDTHS[0], **ends(vocabulary_size))
    dynamic = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    for name, guidance, scheduler in [("flux-dev", True, dynamic), ("flux-schnell", False, FlowMatchEulerDiscreteScheduler(shift=1.0))]:
        FluxPipeline(
            transformer=flux(19, guidance),
            scheduler=scheduler,
            vae=vae,
            text_encoder=pooled,
            tokenizer=tokenizer,
            text_encoder_2=third,
            tokenizer_2=unigram,
        ).save_pretrained(folder / name)
    shutil.rmtree(folder / "flow-tokenizer")
