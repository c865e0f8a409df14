//! The names that the original code of Flux and of Stable Diffusion 3 gives to the layers of their transformers. Some layers there are several of
//! diffusers' in one: queries, keys and values, say, one below the other.

/// Diffusers' name within a block, the original's, and the place among those that share it.
type Names = &'static [(&'static str, &'static str, usize)];

const FLUX_DOUBLE: Names = &[
    ("attn.to_q", "img_attn.qkv", 0),
    ("attn.to_k", "img_attn.qkv", 1),
    ("attn.to_v", "img_attn.qkv", 2),
    ("attn.add_q_proj", "txt_attn.qkv", 0),
    ("attn.add_k_proj", "txt_attn.qkv", 1),
    ("attn.add_v_proj", "txt_attn.qkv", 2),
    ("attn.to_out.0", "img_attn.proj", 0),
    ("attn.to_add_out", "txt_attn.proj", 0),
    ("ff.net.0.proj", "img_mlp.0", 0),
    ("ff.net.2", "img_mlp.2", 0),
    ("ff_context.net.0.proj", "txt_mlp.0", 0),
    ("ff_context.net.2", "txt_mlp.2", 0),
    ("norm1.linear", "img_mod.lin", 0),
    ("norm1_context.linear", "txt_mod.lin", 0),
];
const FLUX_SINGLE: Names = &[
    ("attn.to_q", "linear1", 0),
    ("attn.to_k", "linear1", 1),
    ("attn.to_v", "linear1", 2),
    ("proj_mlp", "linear1", 3),
    ("proj_out", "linear2", 0),
    ("norm.linear", "modulation.lin", 0),
];
/// Without the last modulation, whose halves the original has the other way round.
const FLUX_AROUND: Names = &[
    ("x_embedder", "img_in", 0),
    ("context_embedder", "txt_in", 0),
    ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer", 0),
    ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer", 0),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer", 0),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer", 0),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer", 0),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer", 0),
    ("proj_out", "final_layer.linear", 0),
];
/// Without the modulations, of which the last ones have the other way round what the others have not.
const SD3_JOINT: Names = &[
    ("attn.to_q", "x_block.attn.qkv", 0),
    ("attn.to_k", "x_block.attn.qkv", 1),
    ("attn.to_v", "x_block.attn.qkv", 2),
    ("attn2.to_q", "x_block.attn2.qkv", 0),
    ("attn2.to_k", "x_block.attn2.qkv", 1),
    ("attn2.to_v", "x_block.attn2.qkv", 2),
    ("attn.add_q_proj", "context_block.attn.qkv", 0),
    ("attn.add_k_proj", "context_block.attn.qkv", 1),
    ("attn.add_v_proj", "context_block.attn.qkv", 2),
    ("attn.to_out.0", "x_block.attn.proj", 0),
    ("attn2.to_out.0", "x_block.attn2.proj", 0),
    ("attn.to_add_out", "context_block.attn.proj", 0),
    ("ff.net.0.proj", "x_block.mlp.fc1", 0),
    ("ff.net.2", "x_block.mlp.fc2", 0),
    ("ff_context.net.0.proj", "context_block.mlp.fc1", 0),
    ("ff_context.net.2", "context_block.mlp.fc2", 0),
];
const SD3_AROUND: Names = &[
    ("pos_embed.proj", "x_embedder.proj", 0),
    ("context_embedder", "context_embedder", 0),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0", 0),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2", 0),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0", 0),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2", 0),
    ("proj_out", "final_layer.linear", 0),
];

/// Whose transformer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transformer {
    Flux,
    Sd3,
}

impl Transformer {
    /// From the paths of a model's layers; `None` for a model without one.
    pub(super) fn of<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<Self> {
        paths.find_map(|path| match path {
            "x_embedder" => Some(Self::Flux),
            "pos_embed.proj" => Some(Self::Sd3),
            _ => None,
        })
    }

    /// The original's name of the layer that diffusers calls `path`, and its place among those that share it.
    pub(super) fn original(self, path: &str) -> Option<(String, usize)> {
        let in_block = |blocks: &str, names: Names, original: &str| {
            let (block, rest) = path.strip_prefix(blocks)?.split_once('.')?;
            let (_, name, place) = names.iter().find(|(own, ..)| *own == rest)?;
            Some((format!("{original}.{block}.{name}"), *place))
        };
        let around = |names: Names| names.iter().find(|(own, ..)| *own == path).map(|(_, name, place)| ((*name).to_owned(), *place));
        match self {
            Self::Flux => in_block("transformer_blocks.", FLUX_DOUBLE, "double_blocks")
                .or_else(|| in_block("single_transformer_blocks.", FLUX_SINGLE, "single_blocks"))
                .or_else(|| around(FLUX_AROUND)),
            Self::Sd3 => in_block("transformer_blocks.", SD3_JOINT, "joint_blocks").or_else(|| around(SD3_AROUND)),
        }
    }
}
