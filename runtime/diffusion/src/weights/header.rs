//! The safetensors header: eight bytes of length, JSON, then the tensors' bytes.
//!
//! Stricter than "it parses": names are unique, every size is computed without overflow, the byte ranges lie in the file, touch
//! each other and leave nothing between or behind them. Pure: takes bytes, allocates no more than the header's own size allows.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::StoredDtype;

/// The longest header that is read. Those of the largest public checkpoints are below 2 MB.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// The most tensors one file may name; the largest public checkpoints have below 5,000.
pub const MAX_TENSORS: usize = 100_000;
/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 8;
/// The longest name of a tensor.
pub const MAX_NAME_BYTES: usize = 1024;

/// Bytes that hold the header's length.
const LENGTH_BYTES: u64 = 8;

/// A header all of whose claims hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// Tensors in the order of the file.
    pub tensors: Vec<(String, HeaderEntry)>,
    /// What the file says of itself besides; texts alone.
    pub metadata: BTreeMap<String, String>,
}

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderEntry {
    /// How its elements are stored.
    pub dtype: StoredDtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes from the file's beginning.
    pub range: Range<u64>,
}

/// Why a header is not acceptable.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The file ends before its header does.
    #[error("the file is truncated: it has {file} bytes, its header needs {needed}; fetch it again")]
    HeaderTruncated {
        /// The file's size.
        file: u64,
        /// Where the header would end.
        needed: u64,
    },
    /// The header claims to be longer than any real one.
    #[error("the header claims {claimed} bytes; at most {MAX_HEADER_BYTES} are read. This is not a safetensors file, or a damaged one")]
    HeaderTooLong {
        /// Its claim.
        claimed: u64,
    },
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 text; this is not a safetensors file, or a damaged one")]
    NotText,
    /// The header is not the JSON it should be.
    #[error("the header is not valid: {0}")]
    Syntax(#[from] serde_json::Error),
    /// The file ends before the tensors do.
    #[error("the file is truncated: it has {file} bytes, its tensors need {needed}; fetch it again")]
    Truncated {
        /// The file's size.
        file: u64,
        /// Where the last tensor would end.
        needed: u64,
    },
    /// The file goes on behind the last tensor.
    #[error("{extra} bytes lie behind the last tensor; the file is damaged")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// A tensor's byte range runs backwards.
    #[error("tensor `{name}` claims the bytes {begin} to {end}")]
    Backwards {
        /// The tensor.
        name: String,
        /// Its claim.
        begin: u64,
        /// Its claim.
        end: u64,
    },
    /// A tensor's size overflows, or is not what dtype and shape say.
    #[error("tensor `{name}` of dtype {dtype} and shape {shape:?} claims {claimed} bytes")]
    Size {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: StoredDtype,
        /// Its shape.
        shape: Vec<u64>,
        /// Its claim.
        claimed: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The one before.
        first: String,
        /// The one that begins too early.
        second: String,
    },
    /// Bytes belong to no tensor.
    #[error("{bytes} bytes before tensor `{name}` belong to no tensor")]
    Gap {
        /// The tensor behind the gap.
        name: String,
        /// How many.
        bytes: u64,
    },
}

/// The header's claimed length, if it can be one in a file of `file_bytes` bytes.
///
/// # Errors
/// [`HeaderError`] if the file is too short for it, or it is longer than [`MAX_HEADER_BYTES`].
pub(super) fn header_length(first: Option<[u8; 8]>, file_bytes: u64) -> Result<u64, HeaderError> {
    let Some(first) = first else {
        return Err(HeaderError::HeaderTruncated { file: file_bytes, needed: LENGTH_BYTES });
    };
    let claimed = u64::from_le_bytes(first);
    if claimed > MAX_HEADER_BYTES {
        return Err(HeaderError::HeaderTooLong { claimed });
    }
    let needed = LENGTH_BYTES + claimed;
    if needed > file_bytes { Err(HeaderError::HeaderTruncated { file: file_bytes, needed }) } else { Ok(claimed) }
}

/// Reads and checks the header of a file whose bytes are `file`.
///
/// # Errors
/// [`HeaderError`] for anything that does not hold. What is returned lies within `file`.
pub fn parse_header(file: &[u8]) -> Result<Header, HeaderError> {
    let file_bytes = file.len() as u64;
    let length = header_length(file.first_chunk().copied(), file_bytes)?;
    // Both fit: header_length has compared them with the file's size.
    let text = &file[LENGTH_BYTES as usize..(LENGTH_BYTES + length) as usize];
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::NotText)?;
    let RawHeader { entries, metadata } = serde_json::from_str(text)?;
    Ok(Header { metadata, ..check(entries, LENGTH_BYTES + length, file_bytes)? })
}

/// Turns claims into facts: `start` is where the tensors' bytes begin.
fn check(raw: Vec<(String, RawEntry)>, start: u64, file_bytes: u64) -> Result<Header, HeaderError> {
    let mut tensors = Vec::with_capacity(raw.len());
    for (name, entry) in raw {
        let [begin, end] = entry.data_offsets;
        let Some(claimed) = end.checked_sub(begin) else {
            return Err(HeaderError::Backwards { name, begin, end });
        };
        if byte_size(entry.dtype, &entry.shape) != Some(claimed) {
            return Err(HeaderError::Size { name, dtype: entry.dtype, shape: entry.shape, claimed });
        }
        let truncated = || HeaderError::Truncated { file: file_bytes, needed: start.saturating_add(end) };
        let range = start.checked_add(begin).zip(start.checked_add(end)).ok_or_else(truncated)?;
        if range.1 > file_bytes {
            return Err(truncated());
        }
        let shape = entry.shape.iter().map(|size| usize::try_from(*size)).collect::<Result<Vec<_>, _>>();
        let Ok(shape) = shape else {
            return Err(HeaderError::Size { name, dtype: entry.dtype, shape: entry.shape, claimed });
        };
        tensors.push((name, HeaderEntry { dtype: entry.dtype, shape, range: range.0..range.1 }));
    }
    tensors.sort_by_key(|(_, entry)| (entry.range.start, entry.range.end));
    let mut covered = start;
    let mut before = "";
    for (name, entry) in &tensors {
        if entry.range.start < covered {
            return Err(HeaderError::Overlap { first: before.to_owned(), second: name.clone() });
        }
        if entry.range.start > covered {
            return Err(HeaderError::Gap { name: name.clone(), bytes: entry.range.start - covered });
        }
        covered = entry.range.end;
        before = name;
    }
    match file_bytes - covered {
        0 => Ok(Header { tensors, metadata: BTreeMap::new() }),
        extra => Err(HeaderError::TrailingBytes { extra }),
    }
}

/// Bytes of a tensor; `None` if that overflows, or a dimension no machine can address makes a size of 0 look harmless.
fn byte_size(dtype: StoredDtype, shape: &[u64]) -> Option<u64> {
    let non_zero = shape.iter().filter(|size| **size > 0).try_fold(dtype.bytes(), |all, size| all.checked_mul(*size))?;
    if non_zero > isize::MAX as u64 {
        return None;
    }
    Some(if shape.contains(&0) { 0 } else { non_zero })
}

/// Claims as they stand in the file, in its order.
struct RawHeader {
    entries: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    #[serde(deserialize_with = "read_dtype")]
    dtype: StoredDtype,
    #[serde(deserialize_with = "read_shape")]
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
        let mut names = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("the name `{}` occurs twice", shortened(&name))));
            }
            if name == "__metadata__" {
                // Anything may stand here; what is no text is not kept.
                if let Value::Object(all) = map.next_value::<Value>()? {
                    metadata = all.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect();
                }
                continue;
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(A::Error::custom(format_args!("a tensor's name has more than {MAX_NAME_BYTES} bytes")));
            }
            if entries.len() == MAX_TENSORS {
                return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
            let entry = map.next_value::<RawEntry>()?;
            entries.push((name, entry));
        }
        Ok(RawHeader { entries, metadata })
    }
}

fn read_dtype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StoredDtype, D::Error> {
    let name = String::deserialize(deserializer)?;
    StoredDtype::from_name(&name).ok_or_else(|| D::Error::custom(format_args!("dtype `{}` is not known", shortened(&name))))
}

fn read_shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    deserializer.deserialize_seq(ShapeVisitor)
}

/// Stops at [`MAX_RANK`], so that a shape as long as the header is never held in memory.
struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a shape of at most {MAX_RANK} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Vec<u64>, A::Error> {
        let mut shape = Vec::with_capacity(MAX_RANK);
        while let Some(size) = sizes.next_element()? {
            if shape.len() == MAX_RANK {
                return Err(A::Error::invalid_length(MAX_RANK + 1, &self));
            }
            shape.push(size);
        }
        Ok(shape)
    }
}

/// Hostile names can be as long as the header; messages must not be.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}
