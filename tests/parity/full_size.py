"""The published full-size configurations, and the names and shapes that diffusers' own networks have at them: on the meta device, without a byte
of weights. Written from the published models, not from the runtime's built-in configurations."""

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

CLIP_L = dict(
    vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
)
# The text half of OpenCLIP's ViT-H without its last layer, whose states Stable Diffusion 2 does not read.
CLIP_H = dict(
    vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, projection_dim=512
)
CLIP_BIG_G = dict(
    vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
)
T5_XXL = dict(
    vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
)
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
VAE_16 = VAE | dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
CROSS_DOWN, DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, UP = "CrossAttnUpBlock2D", "UpBlock2D"
UNET_1 = dict(
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP, CROSS_UP),
    layers_per_block=2,
    cross_attention_dim=768,
    attention_head_dim=8,
)
UNET_2 = UNET_1 | dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)
UNET_XL = dict(
    block_out_channels=(320, 640, 1280),
    down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, UP),
    layers_per_block=2,
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
UNET_REFINER = UNET_XL | dict(
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP, UP),
    transformer_layers_per_block=4,
    attention_head_dim=(6, 12, 24, 24),
    cross_attention_dim=1280,
    projection_class_embeddings_input_dim=2560,
)
SD3 = dict(
    sample_size=128,
    patch_size=2,
    in_channels=16,
    out_channels=16,
    num_layers=24,
    attention_head_dim=64,
    num_attention_heads=24,
    joint_attention_dim=4096,
    caption_projection_dim=1536,
    pooled_projection_dim=2048,
    pos_embed_max_size=192,
)
SD35_MEDIUM = SD3 | dict(pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13)))
SD35_LARGE = SD3 | dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm")
FLUX = dict(
    patch_size=1,
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=128,
    num_attention_heads=24,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    guidance_embeds=True,
)

# Part by part: the reference's class and its configuration.
FAMILIES = {
    "sd15": {
        "text_encoder": (CLIPTextModel, CLIP_L),
        "unet": (UNet2DConditionModel, UNET_1),
        "vae": (AutoencoderKL, VAE),
    },
    "sd21": {
        "text_encoder": (CLIPTextModel, CLIP_H),
        "unet": (UNet2DConditionModel, UNET_2),
        "vae": (AutoencoderKL, VAE),
    },
    "sdxl": {
        "text_encoder": (CLIPTextModel, CLIP_L),
        "text_encoder_2": (CLIPTextModelWithProjection, CLIP_BIG_G),
        "unet": (UNet2DConditionModel, UNET_XL),
        "vae": (AutoencoderKL, VAE),
    },
    "sdxl-refiner": {
        "text_encoder_2": (CLIPTextModelWithProjection, CLIP_BIG_G),
        "unet": (UNet2DConditionModel, UNET_REFINER),
        "vae": (AutoencoderKL, VAE),
    },
    **{
        family: {
            "text_encoder": (CLIPTextModelWithProjection, CLIP_L),
            "text_encoder_2": (CLIPTextModelWithProjection, CLIP_BIG_G),
            "text_encoder_3": (T5EncoderModel, T5_XXL),
            "transformer": (SD3Transformer2DModel, transformer),
            "vae": (AutoencoderKL, VAE_16),
        }
        for family, transformer in [("sd3", SD3), ("sd35-medium", SD35_MEDIUM), ("sd35-large", SD35_LARGE)]
    },
    **{
        family: {
            "text_encoder": (CLIPTextModel, CLIP_L),
            "text_encoder_2": (T5EncoderModel, T5_XXL),
            "transformer": (FluxTransformer2DModel, transformer),
            "vae": (AutoencoderKL, VAE_16),
        }
        for family, transformer in [("flux-dev", FLUX), ("flux-schnell", FLUX | {"guidance_embeds": False})]
    },
}


def network(family, part):
    kind, settings = FAMILIES[family][part]
    with torch.device("meta"):
        if kind.__module__.startswith("transformers"):
            return kind(kind.config_class(**settings))
        return kind(**settings)


def shapes(network):
    """Names and shapes of all that is saved, tied parameters once."""
    saved = network.state_dict()
    names = [name for name, _ in network.named_parameters()] + [name for name, _ in network.named_buffers() if name in saved]
    return {name: list(saved[name].shape) for name in names}
