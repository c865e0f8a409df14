//! The transformer of Stable Diffusion 3 and 3.5 in its authors' names: queries, keys and values are one layer, and where a normalisation
//! has a scale and a shift alone, the shift comes first.

use super::key_map::Arrangement::{HalvesSwapped, Same};
use super::key_map::{Table, rule, third};

pub(super) static TABLE: Table = Table {
    counted: "transformer_blocks.",
    rules: &[
        rule("pos_embed.pos_embed", "pos_embed", Same),
        rule("pos_embed.proj.*", "x_embedder.proj.*", Same),
        rule("context_embedder.*", "context_embedder.*", Same),
        rule("time_text_embed.timestep_embedder.linear_1.*", "t_embedder.mlp.0.*", Same),
        rule("time_text_embed.timestep_embedder.linear_2.*", "t_embedder.mlp.2.*", Same),
        rule("time_text_embed.text_embedder.linear_1.*", "y_embedder.mlp.0.*", Same),
        rule("time_text_embed.text_embedder.linear_2.*", "y_embedder.mlp.2.*", Same),
        // Pictures.
        third("transformer_blocks.{}.attn.to_q.*", "joint_blocks.{}.x_block.attn.qkv.*", 0),
        third("transformer_blocks.{}.attn.to_k.*", "joint_blocks.{}.x_block.attn.qkv.*", 1),
        third("transformer_blocks.{}.attn.to_v.*", "joint_blocks.{}.x_block.attn.qkv.*", 2),
        rule("transformer_blocks.{}.attn.norm_q.*", "joint_blocks.{}.x_block.attn.ln_q.*", Same),
        rule("transformer_blocks.{}.attn.norm_k.*", "joint_blocks.{}.x_block.attn.ln_k.*", Same),
        rule("transformer_blocks.{}.attn.to_out.0.*", "joint_blocks.{}.x_block.attn.proj.*", Same),
        rule("transformer_blocks.{}.norm1.linear.*", "joint_blocks.{}.x_block.adaLN_modulation.1.*", Same),
        rule("transformer_blocks.{}.ff.net.0.proj.*", "joint_blocks.{}.x_block.mlp.fc1.*", Same),
        rule("transformer_blocks.{}.ff.net.2.*", "joint_blocks.{}.x_block.mlp.fc2.*", Same),
        // The second attention of some blocks of 3.5 medium.
        third("transformer_blocks.{}.attn2.to_q.*", "joint_blocks.{}.x_block.attn2.qkv.*", 0),
        third("transformer_blocks.{}.attn2.to_k.*", "joint_blocks.{}.x_block.attn2.qkv.*", 1),
        third("transformer_blocks.{}.attn2.to_v.*", "joint_blocks.{}.x_block.attn2.qkv.*", 2),
        rule("transformer_blocks.{}.attn2.norm_q.*", "joint_blocks.{}.x_block.attn2.ln_q.*", Same),
        rule("transformer_blocks.{}.attn2.norm_k.*", "joint_blocks.{}.x_block.attn2.ln_k.*", Same),
        rule("transformer_blocks.{}.attn2.to_out.0.*", "joint_blocks.{}.x_block.attn2.proj.*", Same),
        // Text.
        third("transformer_blocks.{}.attn.add_q_proj.*", "joint_blocks.{}.context_block.attn.qkv.*", 0),
        third("transformer_blocks.{}.attn.add_k_proj.*", "joint_blocks.{}.context_block.attn.qkv.*", 1),
        third("transformer_blocks.{}.attn.add_v_proj.*", "joint_blocks.{}.context_block.attn.qkv.*", 2),
        rule("transformer_blocks.{}.attn.norm_added_q.*", "joint_blocks.{}.context_block.attn.ln_q.*", Same),
        rule("transformer_blocks.{}.attn.norm_added_k.*", "joint_blocks.{}.context_block.attn.ln_k.*", Same),
        rule("transformer_blocks.{}.attn.to_add_out.*", "joint_blocks.{}.context_block.attn.proj.*", Same),
        rule("transformer_blocks.{last}.norm1_context.linear.*", "joint_blocks.{last}.context_block.adaLN_modulation.1.*", HalvesSwapped),
        rule("transformer_blocks.{}.norm1_context.linear.*", "joint_blocks.{}.context_block.adaLN_modulation.1.*", Same),
        rule("transformer_blocks.{}.ff_context.net.0.proj.*", "joint_blocks.{}.context_block.mlp.fc1.*", Same),
        rule("transformer_blocks.{}.ff_context.net.2.*", "joint_blocks.{}.context_block.mlp.fc2.*", Same),
        rule("norm_out.linear.*", "final_layer.adaLN_modulation.1.*", HalvesSwapped),
        rule("proj_out.*", "final_layer.linear.*", Same),
    ],
};
