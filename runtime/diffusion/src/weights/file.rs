//! One mapped safetensors file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use super::header::{Header, header_length, parse_header};
use super::{HeaderError, WeightsError};

/// How to get safetensors out of a pickle.
const CONVERT: &str = "convert it where you trust its origin: load it with torch.load(path, weights_only=True) and write the \
                       tensors with safetensors.torch.save_file, or save the pipeline with safe_serialization=True";

/// A safetensors file in memory whose header was checked.
#[derive(Debug)]
pub(super) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps a file and checks its header.
    pub(super) fn open(path: &Path) -> Result<(Self, Header), WeightsError> {
        let failed = |source| WeightsError::Read { path: path.to_path_buf(), source };
        let (mut file, bytes) = open_regular(path).map_err(failed)?;
        let mut first = Vec::new();
        file.by_ref().take(SIGNATURE_BYTES).read_to_end(&mut first).map_err(failed)?;
        if let Some((kind, remedy)) = foreign_format(&first) {
            return Err(WeightsError::Format { path: path.to_path_buf(), kind, remedy });
        }
        let refused = |source: HeaderError| WeightsError::Header { path: path.to_path_buf(), source };
        // Before mapping: an empty file cannot be mapped.
        header_length(first.first_chunk().copied(), bytes).map_err(refused)?;
        let map = map(&file).map_err(failed)?;
        let header = parse_header(&map).map_err(refused)?;
        Ok((Self { map }, header))
    }

    /// The bytes of a checked range.
    pub(super) fn bytes(&self, range: &std::ops::Range<u64>) -> Option<&[u8]> {
        let begin = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        self.map.get(begin..end)
    }
}

impl MappedFile {
    /// Gives the memory of a range back that was read and will hardly be read again; reading it again is allowed.
    #[expect(
        unsafe_code,
        reason = "the mapping is shared, read-only and of a file: its pages hold nothing that is not in the file, and come back from there"
    )]
    pub(super) fn release(&self, range: &std::ops::Range<u64>) {
        let (Ok(begin), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else { return };
        if begin >= end || end > self.map.len() {
            return;
        }
        // Where the system refuses, memory stays in use until it is needed elsewhere.
        // SAFETY: see the reason above; the range lies within the mapping.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, begin, end - begin) };
    }
}

/// Opens a regular file; returns it with its size.
pub(super) fn open_regular(path: &Path) -> std::io::Result<(File, u64)> {
    // Asked before opening: opening a named pipe would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[expect(
    unsafe_code,
    reason = "mapping is what makes loading fast and sharing free. All reads go through bounds-checked slices of the mapping, so \
              a lying header is harmless. A file that another process shortens while it is mapped is out of scope: reading it \
              would end this process with SIGBUS. Stores of weights are written once, under another name, and then renamed."
)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, and lives as long as its `Mmap`; that nobody changes the file meanwhile is
    // what the reason above says.
    unsafe { Mmap::map(file) }
}

/// How many of a file's first bytes are looked at.
const SIGNATURE_BYTES: u64 = 64;

/// What a file is if not safetensors, by its content alone, and what to do.
fn foreign_format(first: &[u8]) -> Option<(&'static str, &'static str)> {
    // A safetensors header begins with an object after its length; the length's bytes may look like anything.
    if first.get(8) == Some(&b'{') && first.get(4..8) == Some(&[0; 4]) {
        return None;
    }
    let fetch = "fetch the file itself again";
    let formats: [(&[u8], &str, &str); 9] = [
        (b"PK\x03\x04", "a PyTorch zip archive, whose pickle can run code when it is loaded", CONVERT),
        (b"PK\x05\x06", "an empty zip archive", fetch),
        (b"\x1f\x8b", "a gzip archive", "unpack it first"),
        (b"GGUF", "a GGUF file", "take the checkpoint's safetensors files"),
        (b"\x89HDF", "an HDF5 file", "take the checkpoint's safetensors files"),
        (b"version https://git-lfs", "a Git LFS pointer", "fetch the file it points to with `git lfs pull`"),
        (b"<!DOCTYPE", "an HTML page", fetch),
        (b"<!doctype", "an HTML page", fetch),
        (b"<html", "an HTML page", fetch),
    ];
    for (signature, kind, remedy) in formats {
        if first.starts_with(signature) {
            return Some((kind, remedy));
        }
    }
    let pickle = matches!(first, [0x80, 0..=5, ..]) || first.starts_with(b"(dp") || first.starts_with(b"cposix");
    let tar = first.starts_with(b"storages/") || first.starts_with(b"tensors/");
    (pickle || tar).then_some(("a Python pickle, which can run code when it is loaded", CONVERT))
}

/// What a file that is not named safetensors is, for a message; `None` if it cannot be read or is nothing known.
pub(super) fn recognise(path: &Path) -> Option<(&'static str, &'static str)> {
    let (file, _) = open_regular(path).ok()?;
    let mut first = Vec::new();
    file.take(SIGNATURE_BYTES).read_to_end(&mut first).ok()?;
    foreign_format(&first)
}
