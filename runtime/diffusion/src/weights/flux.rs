//! The transformer of Flux in its authors' names: the linear layers that read the same are one, and the last normalisation's shift comes
//! before its scale.

use super::key_map::Arrangement::{HalvesSwapped, Rows, Same};
use super::key_map::{Table, rule, third};

/// Queries, keys, values and the feed-forward network's input, which is four times as wide.
const SINGLE_PARTS: usize = 7;

pub(super) static TABLE: Table = Table {
    counted: "",
    rules: &[
        rule("x_embedder.*", "img_in.*", Same),
        rule("context_embedder.*", "txt_in.*", Same),
        rule("time_text_embed.timestep_embedder.linear_1.*", "time_in.in_layer.*", Same),
        rule("time_text_embed.timestep_embedder.linear_2.*", "time_in.out_layer.*", Same),
        rule("time_text_embed.text_embedder.linear_1.*", "vector_in.in_layer.*", Same),
        rule("time_text_embed.text_embedder.linear_2.*", "vector_in.out_layer.*", Same),
        rule("time_text_embed.guidance_embedder.linear_1.*", "guidance_in.in_layer.*", Same),
        rule("time_text_embed.guidance_embedder.linear_2.*", "guidance_in.out_layer.*", Same),
        // Pictures in double blocks.
        rule("transformer_blocks.{}.norm1.linear.*", "double_blocks.{}.img_mod.lin.*", Same),
        third("transformer_blocks.{}.attn.to_q.*", "double_blocks.{}.img_attn.qkv.*", 0),
        third("transformer_blocks.{}.attn.to_k.*", "double_blocks.{}.img_attn.qkv.*", 1),
        third("transformer_blocks.{}.attn.to_v.*", "double_blocks.{}.img_attn.qkv.*", 2),
        rule("transformer_blocks.{}.attn.norm_q.weight", "double_blocks.{}.img_attn.norm.query_norm.scale", Same),
        rule("transformer_blocks.{}.attn.norm_k.weight", "double_blocks.{}.img_attn.norm.key_norm.scale", Same),
        rule("transformer_blocks.{}.attn.to_out.0.*", "double_blocks.{}.img_attn.proj.*", Same),
        rule("transformer_blocks.{}.ff.net.0.proj.*", "double_blocks.{}.img_mlp.0.*", Same),
        rule("transformer_blocks.{}.ff.net.2.*", "double_blocks.{}.img_mlp.2.*", Same),
        // Text in double blocks.
        rule("transformer_blocks.{}.norm1_context.linear.*", "double_blocks.{}.txt_mod.lin.*", Same),
        third("transformer_blocks.{}.attn.add_q_proj.*", "double_blocks.{}.txt_attn.qkv.*", 0),
        third("transformer_blocks.{}.attn.add_k_proj.*", "double_blocks.{}.txt_attn.qkv.*", 1),
        third("transformer_blocks.{}.attn.add_v_proj.*", "double_blocks.{}.txt_attn.qkv.*", 2),
        rule("transformer_blocks.{}.attn.norm_added_q.weight", "double_blocks.{}.txt_attn.norm.query_norm.scale", Same),
        rule("transformer_blocks.{}.attn.norm_added_k.weight", "double_blocks.{}.txt_attn.norm.key_norm.scale", Same),
        rule("transformer_blocks.{}.attn.to_add_out.*", "double_blocks.{}.txt_attn.proj.*", Same),
        rule("transformer_blocks.{}.ff_context.net.0.proj.*", "double_blocks.{}.txt_mlp.0.*", Same),
        rule("transformer_blocks.{}.ff_context.net.2.*", "double_blocks.{}.txt_mlp.2.*", Same),
        // Both in single blocks.
        rule("single_transformer_blocks.{}.norm.linear.*", "single_blocks.{}.modulation.lin.*", Same),
        part("single_transformer_blocks.{}.attn.to_q.*", 0, 1),
        part("single_transformer_blocks.{}.attn.to_k.*", 1, 1),
        part("single_transformer_blocks.{}.attn.to_v.*", 2, 1),
        part("single_transformer_blocks.{}.proj_mlp.*", 3, 4),
        rule("single_transformer_blocks.{}.attn.norm_q.weight", "single_blocks.{}.norm.query_norm.scale", Same),
        rule("single_transformer_blocks.{}.attn.norm_k.weight", "single_blocks.{}.norm.key_norm.scale", Same),
        rule("single_transformer_blocks.{}.proj_out.*", "single_blocks.{}.linear2.*", Same),
        rule("norm_out.linear.*", "final_layer.adaLN_modulation.1.*", HalvesSwapped),
        rule("proj_out.*", "final_layer.linear.*", Same),
    ],
};

/// A rule for one of the layers that a single block stores as one.
const fn part(path: &'static str, first: usize, count: usize) -> super::key_map::Rule {
    rule(path, "single_blocks.{}.linear1.*", Rows { first, count, of: SINGLE_PARTS })
}
