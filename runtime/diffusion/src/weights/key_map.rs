//! How tensors are called and arranged in the single files that people publish, pulled by the paths a network asks for.
//!
//! ```text
//! path (diffusers' name) ─► Layout ─► Original { name in the file, arrangement }
//! ```
//! A layout is data: rules in a table, one file for each way of naming. Nothing is renamed in place, so what a network does not ask for is
//! never touched, and what it asks for and is not there has a name. It knows neither files nor families.

use super::ldm_unet::LdmUnetNames;
use super::{flux, ldm_vae, mmdit, open_clip};

/// How the tensor that is asked for comes out of the one that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// As it is.
    Same,
    /// `count` of `of` equal parts of its rows, from part `first` on: one of several layers that are stored as one.
    Rows {
        /// The first part.
        first: usize,
        /// How many parts.
        count: usize,
        /// How many parts there are.
        of: usize,
    },
    /// \[n, m\] from \[m, n\].
    Transposed,
    /// A linear layer \[n, m\] from a 1×1 convolution \[n, m, 1, 1\]; newer files have the linear layer itself.
    Pointwise,
    /// The second half of its rows, then the first.
    HalvesSwapped,
    /// Ones on the diagonal, where the file has none of its name.
    IdentityIfAbsent,
}

impl Arrangement {
    /// The stored shape behind `shape`.
    pub fn original_shape(self, shape: &[usize]) -> Vec<usize> {
        let mut original = shape.to_vec();
        match self {
            Self::Same | Self::HalvesSwapped | Self::IdentityIfAbsent => {}
            // Where the division leaves something, no stored shape fits.
            Self::Rows { count, of, .. } => original.iter_mut().take(1).for_each(|rows| *rows = *rows / count * of),
            Self::Transposed => original.reverse(),
            Self::Pointwise => original.extend([1, 1]),
        }
        original
    }

    /// Whether a stored shape makes `shape`.
    pub(super) fn fits(self, stored: &[usize], shape: &[usize]) -> bool {
        stored == self.original_shape(shape) || (self == Self::Pointwise && stored == shape)
    }
}

/// A tensor in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// Its name there.
    pub name: String,
    /// How it becomes what is asked for.
    pub arrangement: Arrangement,
}

/// The ways of naming the tensors of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// diffusers' and transformers' own.
    Own,
    /// transformers' CLIP, by early files without `text_model.`.
    ClipWithoutModel,
    /// OpenCLIP's text half.
    OpenClip,
    /// The UNet of Latent Diffusion and SGM.
    LdmUnet,
    /// The autoencoder of Latent Diffusion, SGM, SD3 and Flux.
    LdmVae,
    /// The transformer of Stable Diffusion 3.
    Mmdit,
    /// The transformer of Flux.
    Flux,
}

/// How one part is called in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What all its names begin with.
    pub prefix: &'static str,
    /// What follows.
    pub names: Names,
}

impl Layout {
    /// The originals of all `paths`, which must be all of the part: some names depend on how many blocks there are. `None` for a path that the
    /// layout has no name for.
    pub fn originals(self, paths: &[&str]) -> Vec<Option<Original>> {
        let original = |path: &str| match self.names {
            Names::Own => Some(own(path)),
            Names::ClipWithoutModel => path.strip_prefix("text_model.").map(own),
            Names::OpenClip => open_clip::TABLE.original(path, 0),
            Names::LdmVae => ldm_vae::TABLE.original(path, ldm_vae::TABLE.count(paths)),
            Names::Mmdit => mmdit::TABLE.original(path, mmdit::TABLE.count(paths)),
            Names::Flux => flux::TABLE.original(path, 0),
            Names::LdmUnet => None,
        };
        let prefixed = |original: Original| Original { name: format!("{}{}", self.prefix, original.name), ..original };
        if self.names == Names::LdmUnet {
            let names = LdmUnetNames::of(paths.iter().copied());
            return paths.iter().map(|path| ldm_unet(&names, path).map(prefixed)).collect();
        }
        paths.iter().map(|path| original(path).map(prefixed)).collect()
    }
}

fn own(path: &str) -> Original {
    // Stable Diffusion 3 was trained without this matrix behind its smaller CLIP, which diffusers' form of that encoder has.
    let arrangement = if path == "text_projection.weight" { Arrangement::IdentityIfAbsent } else { Arrangement::Same };
    Original { name: path.to_owned(), arrangement }
}

fn ldm_unet(names: &LdmUnetNames, path: &str) -> Option<Original> {
    let (layer, parameter) = path.rsplit_once('.')?;
    Some(Original { name: format!("{}.{parameter}", names.name(layer)?), arrangement: Arrangement::Same })
}

/// The rules of one layout; the first that matches counts.
#[derive(Debug)]
pub(super) struct Table {
    /// The blocks that `{last}` and `{back}` count, as the beginning of their paths; empty where no rule does.
    pub(super) counted: &'static str,
    pub(super) rules: &'static [Rule],
}

/// One rule. Both sides are parts between dots: `{}` is a number and stays the same, `{last}` the last block's number, `{back}` the number
/// counted from the last block, `*` any rest.
#[derive(Debug)]
pub(super) struct Rule {
    path: &'static str,
    original: &'static str,
    arrangement: Arrangement,
}

/// A rule.
pub(super) const fn rule(path: &'static str, original: &'static str, arrangement: Arrangement) -> Rule {
    Rule { path, original, arrangement }
}

/// A rule for one of three layers that are stored as one.
pub(super) const fn third(path: &'static str, original: &'static str, first: usize) -> Rule {
    Rule { path, original, arrangement: Arrangement::Rows { first, count: 1, of: 3 } }
}

impl Table {
    /// How many counted blocks there are.
    fn count(&self, paths: &[&str]) -> usize {
        let number = |path: &&str| path.strip_prefix(self.counted)?.split('.').next()?.parse::<usize>().ok();
        paths.iter().filter_map(number).max().map_or(0, |last| last + 1)
    }

    fn original(&self, path: &str, count: usize) -> Option<Original> {
        let named = |rule: &Rule| Some(Original { name: rule.apply(path, count)?, arrangement: rule.arrangement });
        self.rules.iter().find_map(named)
    }
}

impl Rule {
    fn apply(&self, path: &str, count: usize) -> Option<String> {
        let (mut numbers, mut rest) = (Vec::new(), "");
        let mut left = Some(path);
        for wanted in self.path.split('.') {
            let here = left?;
            if wanted == "*" {
                (rest, left) = (here, None);
                break;
            }
            let (part, after) = here.split_once('.').map_or((here, None), |(part, after)| (part, Some(after)));
            let number = || part.parse::<usize>().ok();
            match wanted {
                "{}" => numbers.push(number()?),
                "{last}" => numbers.push(number().filter(|number| number + 1 == count)?),
                _ if wanted == part => {}
                _ => return None,
            }
            left = after;
        }
        if left.is_some() {
            return None;
        }
        let mut numbers = numbers.into_iter();
        let mut fill = |part: &str| match part {
            "{}" | "{last}" => numbers.next().map(|number| number.to_string()),
            "{back}" => numbers.next().and_then(|number| Some((count.checked_sub(number + 1)?).to_string())),
            "*" => Some(rest.to_owned()),
            _ => Some(part.to_owned()),
        };
        let parts: Option<Vec<String>> = self.original.split('.').map(&mut fill).collect();
        Some(parts?.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original(layout: Layout, paths: &[&str], path: &str) -> Option<(String, Arrangement)> {
        let at = paths.iter().position(|known| *known == path).unwrap();
        layout.originals(paths)[at].clone().map(|original| (original.name, original.arrangement))
    }

    #[test]
    fn rules_keep_numbers_and_rests_and_match_whole_paths_only() {
        let rule = rule("a.{}.b.*", "x.{back}.y.{}.*", Arrangement::Same);
        assert_eq!(rule.apply("a.1.b.c.d", 4), None, "two numbers are wanted, one is there");
        let rule = super::rule("a.{}.b.{}.*", "x.{back}.y.{}.*", Arrangement::Same);
        assert_eq!(rule.apply("a.1.b.7.c.d", 4).as_deref(), Some("x.2.y.7.c.d"));
        for path in ["a.1.b", "a.1.b.7", "a.x.b.7.c", "b.1.b.7.c", "a.4.b.7.c"] {
            assert_eq!(rule.apply(path, 4), None, "{path}");
        }
        let rule = super::rule("a.{last}.b", "x.{last}.b", Arrangement::Same);
        assert_eq!((rule.apply("a.3.b", 4).as_deref(), rule.apply("a.2.b", 4), rule.apply("a.3.b.c", 4)), (Some("x.3.b"), None, None));
    }

    #[test]
    fn stored_shapes_follow_from_arrangements() {
        let rows = Arrangement::Rows { first: 3, count: 4, of: 7 };
        assert_eq!(rows.original_shape(&[8, 5]), [14, 5]);
        assert_eq!(Arrangement::Transposed.original_shape(&[2, 3]), [3, 2]);
        assert!(Arrangement::Pointwise.fits(&[4, 4, 1, 1], &[4, 4]) && Arrangement::Pointwise.fits(&[4, 4], &[4, 4]));
        assert!(!Arrangement::Pointwise.fits(&[4, 4, 1], &[4, 4]) && !Arrangement::Same.fits(&[4, 4, 1, 1], &[4, 4]));
    }

    /// Each name by its published checkpoint.
    #[test]
    fn names_are_those_of_the_published_checkpoints() {
        let vae = [
            "encoder.down_blocks.0.resnets.0.norm1.weight",
            "decoder.up_blocks.0.resnets.2.conv_shortcut.bias",
            "decoder.up_blocks.3.upsamplers.0.conv.weight",
            "decoder.mid_block.attentions.0.to_q.weight",
            "encoder.mid_block.resnets.1.conv2.bias",
            "decoder.conv_norm_out.bias",
            "quant_conv.weight",
        ];
        let named = |path| original(Layout { prefix: "first_stage_model.", names: Names::LdmVae }, &vae, path).unwrap();
        for (path, name) in vae.iter().zip([
            "encoder.down.0.block.0.norm1.weight",
            "decoder.up.3.block.2.nin_shortcut.bias",
            "decoder.up.0.upsample.conv.weight",
            "decoder.mid.attn_1.q.weight",
            "encoder.mid.block_2.conv2.bias",
            "decoder.norm_out.bias",
            "quant_conv.weight",
        ]) {
            assert_eq!(named(path).0, format!("first_stage_model.{name}"));
        }
        assert_eq!(named("decoder.mid_block.attentions.0.to_q.weight").1, Arrangement::Pointwise);

        let clip = [
            "text_model.encoder.layers.31.self_attn.v_proj.bias",
            "text_model.embeddings.position_embedding.weight",
            "text_projection.weight",
            "text_model.encoder.layers.0.mlp.fc2.weight",
        ];
        let layout = Layout { prefix: "conditioner.embedders.1.model.", names: Names::OpenClip };
        let named = |path| original(layout, &clip, path).unwrap();
        let third = Arrangement::Rows { first: 2, count: 1, of: 3 };
        assert_eq!(named(clip[0]), ("conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias".to_owned(), third));
        assert_eq!(named(clip[1]).0, "conditioner.embedders.1.model.positional_embedding");
        assert_eq!(named(clip[2]), ("conditioner.embedders.1.model.text_projection".to_owned(), Arrangement::Transposed));
        assert_eq!(named(clip[3]).0, "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj.weight");

        let mmdit = [
            "transformer_blocks.0.norm1_context.linear.weight",
            "transformer_blocks.1.norm1_context.linear.weight",
            "transformer_blocks.1.attn.add_k_proj.weight",
            "pos_embed.proj.bias",
        ];
        let named = |path| original(Layout { prefix: "model.diffusion_model.", names: Names::Mmdit }, &mmdit, path).unwrap();
        assert_eq!(named(mmdit[0]).1, Arrangement::Same);
        assert_eq!(named(mmdit[1]).1, Arrangement::HalvesSwapped);
        assert_eq!(named(mmdit[2]).0, "model.diffusion_model.joint_blocks.1.context_block.attn.qkv.weight");
        assert_eq!(named(mmdit[3]).0, "model.diffusion_model.x_embedder.proj.bias");

        let flux = ["single_transformer_blocks.37.proj_mlp.weight", "transformer_blocks.18.attn.norm_added_k.weight"];
        let named = |path| original(Layout { prefix: "", names: Names::Flux }, &flux, path).unwrap();
        assert_eq!(named(flux[0]), ("single_blocks.37.linear1.weight".to_owned(), Arrangement::Rows { first: 3, count: 4, of: 7 }));
        assert_eq!(named(flux[1]).0, "double_blocks.18.txt_attn.norm.key_norm.scale");
    }

    #[test]
    fn path_of_another_network_has_no_name() {
        for names in [Names::OpenClip, Names::LdmUnet, Names::LdmVae, Names::Mmdit, Names::Flux, Names::ClipWithoutModel] {
            assert_eq!(Layout { prefix: "", names }.originals(&["no.such.layer.weight"]), [None], "{names:?}");
        }
    }
}
