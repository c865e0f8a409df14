//! OpenCLIP's text half: queries, keys and values are one layer, and the last projection is stored for multiplying from the left.

use super::key_map::Arrangement::{Same, Transposed};
use super::key_map::{Table, rule, third};

pub(super) static TABLE: Table = Table {
    counted: "",
    rules: &[
        rule("text_model.embeddings.token_embedding.weight", "token_embedding.weight", Same),
        rule("text_model.embeddings.position_embedding.weight", "positional_embedding", Same),
        rule("text_model.encoder.layers.{}.layer_norm1.*", "transformer.resblocks.{}.ln_1.*", Same),
        rule("text_model.encoder.layers.{}.layer_norm2.*", "transformer.resblocks.{}.ln_2.*", Same),
        third("text_model.encoder.layers.{}.self_attn.q_proj.weight", "transformer.resblocks.{}.attn.in_proj_weight", 0),
        third("text_model.encoder.layers.{}.self_attn.k_proj.weight", "transformer.resblocks.{}.attn.in_proj_weight", 1),
        third("text_model.encoder.layers.{}.self_attn.v_proj.weight", "transformer.resblocks.{}.attn.in_proj_weight", 2),
        third("text_model.encoder.layers.{}.self_attn.q_proj.bias", "transformer.resblocks.{}.attn.in_proj_bias", 0),
        third("text_model.encoder.layers.{}.self_attn.k_proj.bias", "transformer.resblocks.{}.attn.in_proj_bias", 1),
        third("text_model.encoder.layers.{}.self_attn.v_proj.bias", "transformer.resblocks.{}.attn.in_proj_bias", 2),
        rule("text_model.encoder.layers.{}.self_attn.out_proj.*", "transformer.resblocks.{}.attn.out_proj.*", Same),
        rule("text_model.encoder.layers.{}.mlp.fc1.*", "transformer.resblocks.{}.mlp.c_fc.*", Same),
        rule("text_model.encoder.layers.{}.mlp.fc2.*", "transformer.resblocks.{}.mlp.c_proj.*", Same),
        rule("text_model.final_layer_norm.*", "ln_final.*", Same),
        rule("text_projection.weight", "text_projection", Transposed),
    ],
};
