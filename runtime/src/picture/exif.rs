//! EXIF data with one text in it, where AUTOMATIC1111 puts its parameters into JPEG and WebP files: the tag `UserComment` (CIPA DC-008, EXIF
//! 2.32), in UTF-16 behind the mark `UNICODE`. Big-endian throughout, as the text is.

/// The mark of the text's encoding, which takes eight bytes.
const UNICODE: &[u8; 8] = b"UNICODE\0";
/// The header, and two directories of one entry each: what stands before the text.
const PREAMBLE_BYTES: u32 = 44;
const FIRST_DIRECTORY: u32 = 8;
const EXIF_DIRECTORY: u32 = 26;
const TAG_EXIF_DIRECTORY: u16 = 0x8769;
const TAG_USER_COMMENT: u16 = 0x9286;
const TYPE_LONG: u16 = 4;
const TYPE_UNDEFINED: u16 = 7;
/// What a JPEG segment holds besides its own length and the word that says it is EXIF.
const SEGMENT_BYTES: usize = 0xffff - 2 - 6;
/// The most UTF-16 units of a text: more would not fit into one segment of a JPEG file.
const MAX_TEXT_UNITS: usize = (SEGMENT_BYTES - PREAMBLE_BYTES as usize - UNICODE.len()) / 2;

/// A TIFF structure whose `UserComment` is `text`, cut at a character's end where it is too long.
pub(super) fn user_comment(text: &str) -> Vec<u8> {
    let mut comment = UNICODE.to_vec();
    let mut buffer = [0; 2];
    let mut room = MAX_TEXT_UNITS;
    for character in text.chars() {
        let units = character.encode_utf16(&mut buffer);
        let Some(left) = room.checked_sub(units.len()) else { break };
        room = left;
        comment.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
    }
    // Both are bounded by a segment's size.
    let length = comment.len() as u32;
    let mut exif = b"MM\0\x2a".to_vec();
    exif.extend(FIRST_DIRECTORY.to_be_bytes());
    exif.extend(directory(TAG_EXIF_DIRECTORY, TYPE_LONG, 1, EXIF_DIRECTORY));
    exif.extend(directory(TAG_USER_COMMENT, TYPE_UNDEFINED, length, PREAMBLE_BYTES));
    exif.extend(comment);
    exif
}

/// One entry, and no directory after it.
fn directory(tag: u16, kind: u16, count: u32, value: u32) -> Vec<u8> {
    let entries = 1_u16.to_be_bytes();
    let next = 0_u32.to_be_bytes();
    [&entries[..], &tag.to_be_bytes(), &kind.to_be_bytes(), &count.to_be_bytes(), &value.to_be_bytes(), &next].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_behind_two_directories_of_one_entry() {
        let exif = user_comment("a 雪");
        assert_eq!(exif[..PREAMBLE_BYTES as usize].len() + UNICODE.len() + 6, exif.len());
        assert_eq!(&exif[8..12], [0, 1, 0x87, 0x69]);
        assert_eq!(&exif[26..36], [0, 1, 0x92, 0x86, 0, 7, 0, 0, 0, 14]);
        assert_eq!(&exif[44..], b"UNICODE\0\0a\0 \x96\xea");
    }

    #[test]
    fn longest_text_fits_into_a_segment_and_ends_at_a_character() {
        for text in ["x".repeat(100_000), "😀".repeat(50_000), format!("x{}", "😀".repeat(50_000))] {
            let exif = user_comment(&text);
            assert!(exif.len() <= SEGMENT_BYTES && exif.len() > SEGMENT_BYTES - 4, "{}", exif.len());
            let units: Vec<u16> = exif[52..].as_chunks::<2>().0.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            assert!(text.starts_with(&String::from_utf16(&units).unwrap()));
        }
    }
}
