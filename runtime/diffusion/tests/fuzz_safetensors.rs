//! The safetensors reader under hostile input: no panic, nothing accepted that does not lie within the file, and nothing accepted
//! that the format's own implementation refuses. Runs for a bounded time under `cargo test`; `cargo bolero test` runs it on.

use bolero::check;
use diffusion::weights::{MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, parse_header};

/// Runs of each harness under plain `cargo test`.
const ITERATIONS: usize = 20_000;
/// Longer inputs say nothing new about the header.
const MAX_INPUT_BYTES: usize = 4096;

/// What must hold for every input.
fn check_file(file: &[u8]) {
    let Ok(header) = parse_header(file) else { return };
    assert!(header.tensors.len() <= MAX_TENSORS);
    let begin = 8 + u64::from_le_bytes(*file.first_chunk().unwrap());
    let mut covered = begin;
    for (name, entry) in &header.tensors {
        assert!(name.len() <= MAX_NAME_BYTES && entry.shape.len() <= MAX_RANK);
        assert_eq!(entry.range.start, covered, "{name}");
        assert!(entry.range.end >= entry.range.start && entry.range.end <= file.len() as u64, "{name}");
        let elements: u64 = entry.shape.iter().map(|size| *size as u64).product();
        assert_eq!(elements * entry.dtype.bytes(), entry.range.end - entry.range.start, "{name}");
        covered = entry.range.end;
    }
    assert_eq!(covered, file.len() as u64);
    // The reference wants an object first; whitespace before it is the one thing it minds and this reader does not.
    if file.get(8) == Some(&b'{') && !String::from_utf8_lossy(file).contains("__metadata__") {
        safetensors::SafeTensors::read_metadata(file).expect("what is accepted here is accepted by the format's own reader");
    }
}

/// A valid file of a few tensors.
fn valid_file() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"ids":{"dtype":"I64","shape":[1,2],"data_offsets":[32,48]},"none":{"dtype":"F16","shape":[0,7],"data_offsets":[48,48]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend(0..48_u8);
    file
}

/// One change of a file.
#[derive(Debug, bolero::TypeGenerator)]
enum Mutation {
    Set {
        at: u16,
        byte: u8,
    },
    Flip {
        at: u16,
        bit: u8,
    },
    Remove {
        at: u16,
        count: u8,
    },
    Insert {
        at: u16,
        bytes: Vec<u8>,
    },
    Truncate {
        at: u16,
    },
    /// A number of the header becomes another, which random bytes would hardly ever do.
    Number {
        which: u8,
        value: u64,
    },
    /// One of the texts that parsers stumble over.
    Splice {
        at: u16,
        which: u8,
    },
}

const SPLICES: [&str; 12] = [
    "18446744073709551615",
    "-1",
    "1e999",
    "\"a.weight\":",
    "[[[[",
    "\\ud800",
    "{}",
    "null",
    "9223372036854775808",
    "\"dtype\":\"F64\",",
    "\"shape\":[4294967296,4294967296,0],",
    "\u{0}",
];

fn apply(file: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: u16, length: usize| usize::from(at) % length.max(1);
    let length = file.len();
    match mutation {
        Mutation::Set { at, byte } => file.iter_mut().skip(place(*at, length)).take(1).for_each(|old| *old = *byte),
        Mutation::Flip { at, bit } => file.iter_mut().skip(place(*at, length)).take(1).for_each(|old| *old ^= 1 << (bit % 8)),
        Mutation::Remove { at, count } => {
            let from = place(*at, length);
            file.drain(from..(from + usize::from(*count)).min(length));
        }
        Mutation::Insert { at, bytes } => {
            let from = place(*at, length + 1);
            file.splice(from..from, bytes.iter().copied().take(MAX_INPUT_BYTES));
        }
        Mutation::Truncate { at } => file.truncate(place(*at, length + 1)),
        Mutation::Number { which, value } => replace_number(file, usize::from(*which), &value.to_string()),
        Mutation::Splice { at, which } => {
            let from = place(*at, length + 1);
            let text = SPLICES[usize::from(*which) % SPLICES.len()];
            file.splice(from..from, text.bytes());
        }
    }
}

/// Puts `value` in place of one of the header's numbers.
fn replace_number(file: &mut Vec<u8>, which: usize, value: &str) {
    let mut numbers = Vec::new();
    let mut at = 8;
    while at < file.len() {
        let digits = file[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            numbers.push(at..at + digits);
        }
        at += digits.max(1);
    }
    if let Some(range) = numbers.get(which % numbers.len().max(1)) {
        file.splice(range.clone(), value.bytes());
    }
}

/// Makes the length at the front fit the header again, so that changes reach behind the first check.
fn mend_length(file: &mut [u8]) {
    if let Some(end) = file.iter().rposition(|byte| *byte == b'}').filter(|end| *end >= 8) {
        let length = (end + 1 - 8) as u64;
        file[..8].copy_from_slice(&length.to_le_bytes());
    }
}

#[test]
fn any_bytes_are_accepted_only_if_all_claims_hold() {
    check!().with_max_len(MAX_INPUT_BYTES).with_iterations(ITERATIONS).for_each(check_file);
}

#[test]
fn any_header_is_accepted_only_if_all_claims_hold() {
    check!().with_max_len(MAX_INPUT_BYTES).with_iterations(ITERATIONS).for_each(|bytes: &[u8]| {
        let (header, data) = bytes.split_at(bytes.len() / 2);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header);
        file.extend_from_slice(data);
        check_file(&file);
    });
}

#[test]
fn changed_valid_files_are_accepted_only_if_all_claims_hold() {
    check_file(&valid_file());
    assert_eq!(parse_header(&valid_file()).unwrap().tensors.len(), 4);
    check!().with_type::<(Vec<Mutation>, bool)>().with_iterations(ITERATIONS).for_each(|(mutations, mended)| {
        let mut file = valid_file();
        for mutation in mutations.iter().take(4) {
            apply(&mut file, mutation);
        }
        if *mended {
            mend_length(&mut file);
        }
        check_file(&file);
    });
}
