//! The building blocks of the networks: parameters plus the operations of `ops`, in diffusers' names, so that its files load as they are.
//!
//! Construction pulls parameters by path from a [`Parameters`] view, which may read a file, only check a header, or make random numbers.
//! `forward` takes an [`crate::exec::Exec`]. Layers know no model, no configuration file and no request.

mod attention;
mod basic;
mod feed_forward;
mod joint_attention;
mod modulation;
mod parameters;
mod resnet;
mod timestep;
mod transformer;

pub use attention::{Attention, AttentionShape, KeyValue};
pub use basic::{Conv2d, GroupNorm, LayerNorm, Linear, RmsNorm};
pub use feed_forward::FeedForward;
pub use joint_attention::{JointAttention, JointAttentionShape, TokenAttention};
pub use modulation::{Modulation, gated, modulated};
pub use parameters::{Built, ParameterSource, Parameters, PartSources};
pub(crate) use resnet::silu;
pub use resnet::{Downsample, ResnetBlock, ResnetShape, Upsample};
pub use timestep::{SinusoidOptions, TimestepEmbedding, timestep_sinusoid};
pub use transformer::{SpatialTransformer, SpatialTransformerShape};
