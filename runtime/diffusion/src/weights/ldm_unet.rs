//! The names that the original code of Latent Diffusion (and Stability's SGM after it) gives to the layers of a UNet: blocks are counted
//! through, where diffusers counts levels and layers.

use std::collections::BTreeMap;

/// One level: how many resnets it has, whether transformers follow them, whether it ends with a change of size.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    resnets: usize,
    attention: bool,
    sampler: bool,
}

/// The levels of a UNet, from the paths of its layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct LdmUnetNames {
    down: BTreeMap<usize, Level>,
    up: BTreeMap<usize, Level>,
}

/// `down_blocks.1.resnets.0.conv1` → (true, 1, "resnets", 0, "conv1").
fn parts(path: &str) -> Option<(bool, usize, &str, usize, &str)> {
    let (blocks, rest) = path.split_once('.')?;
    let is_down = match blocks {
        "down_blocks" => true,
        "up_blocks" => false,
        _ => return None,
    };
    let (level, rest) = rest.split_once('.')?;
    let (kind, rest) = rest.split_once('.')?;
    let (index, rest) = rest.split_once('.')?;
    Some((is_down, level.parse().ok()?, kind, index.parse().ok()?, rest))
}

impl LdmUnetNames {
    pub(crate) fn of<'a>(paths: impl Iterator<Item = &'a str>) -> Self {
        let mut levels = Self::default();
        for (is_down, level, kind, index, _) in paths.filter_map(parts) {
            let level = if is_down { &mut levels.down } else { &mut levels.up }.entry(level).or_default();
            match kind {
                "resnets" => level.resnets = level.resnets.max(index + 1),
                "attentions" => level.attention = true,
                _ => level.sampler = true,
            }
        }
        levels
    }

    /// The name of the layer that diffusers calls `path`; `None` for layers of other networks.
    pub(crate) fn name(&self, path: &str) -> Option<String> {
        for (diffusers, ldm) in [
            ("conv_in", "input_blocks.0.0"),
            ("conv_norm_out", "out.0"),
            ("conv_out", "out.2"),
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("add_embedding.linear_1", "label_emb.0.0"),
            ("add_embedding.linear_2", "label_emb.0.2"),
        ] {
            if path == diffusers {
                return Some(ldm.to_owned());
            }
        }
        if let Some(rest) = path.strip_prefix("mid_block.") {
            let (kind, rest) = rest.split_once('.')?;
            let (index, rest) = rest.split_once('.')?;
            return match (kind, index) {
                ("resnets", "0") => Some(format!("middle_block.0.{}", resnet(rest)?)),
                ("resnets", "1") => Some(format!("middle_block.2.{}", resnet(rest)?)),
                ("attentions", "0") => Some(format!("middle_block.1.{rest}")),
                _ => None,
            };
        }
        let (is_down, at, kind, index, rest) = parts(path)?;
        let levels = if is_down { &self.down } else { &self.up };
        let level = levels.get(&at)?;
        let before = levels.range(..at).map(|(_, level)| level.resnets + usize::from(is_down && level.sampler));
        // The first input block is the convolution that comes before all levels.
        let first = usize::from(is_down) + before.sum::<usize>();
        let blocks = if is_down { "input_blocks" } else { "output_blocks" };
        match kind {
            "resnets" => Some(format!("{blocks}.{}.0.{}", first + index, resnet(rest)?)),
            "attentions" => Some(format!("{blocks}.{}.1.{rest}", first + index)),
            "downsamplers" => Some(format!("{blocks}.{}.0.op", first + level.resnets)),
            "upsamplers" => Some(format!("{blocks}.{}.{}.conv", first + level.resnets - 1, 1 + usize::from(level.attention))),
            _ => None,
        }
    }
}

fn resnet(layer: &str) -> Option<&'static str> {
    Some(match layer {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of Stable Diffusion 1.5, as in its checkpoint.
    #[test]
    fn names_are_those_of_the_published_checkpoint() {
        let mut paths = Vec::new();
        for level in 0..4 {
            paths.extend((0..2).map(|index| format!("down_blocks.{level}.resnets.{index}.conv1")));
            paths.extend((0..3).map(|index| format!("up_blocks.{level}.resnets.{index}.conv1")));
            if level < 3 {
                paths.push(format!("down_blocks.{level}.downsamplers.0.conv"));
                paths.push(format!("up_blocks.{level}.upsamplers.0.conv"));
                paths.push(format!("down_blocks.{level}.attentions.0.proj_in"));
            }
            if level > 0 {
                paths.push(format!("up_blocks.{level}.attentions.0.proj_in"));
            }
        }
        let levels = LdmUnetNames::of(paths.iter().map(String::as_str));
        for (path, expected) in [
            ("conv_in", "input_blocks.0.0"),
            ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "input_blocks.1.1.transformer_blocks.0.attn1.to_q"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
            ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
            ("down_blocks.2.attentions.1.proj_out", "input_blocks.8.1.proj_out"),
            ("down_blocks.3.resnets.1.time_emb_proj", "input_blocks.11.0.emb_layers.1"),
            ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
            ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
            ("up_blocks.0.resnets.0.conv1", "output_blocks.0.0.in_layers.2"),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
            ("up_blocks.1.attentions.0.proj_in", "output_blocks.3.1.proj_in"),
            ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
            ("up_blocks.3.attentions.2.proj_in", "output_blocks.11.1.proj_in"),
            ("up_blocks.3.resnets.2.norm2", "output_blocks.11.0.out_layers.0"),
            ("conv_norm_out", "out.0"),
            ("conv_out", "out.2"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("add_embedding.linear_1", "label_emb.0.0"),
        ] {
            assert_eq!(levels.name(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(levels.name("text_model.encoder.layers.0.mlp.fc1"), None);
    }
}
