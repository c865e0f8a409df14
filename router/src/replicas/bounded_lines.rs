//! Reads a child's output line by line, within a bound: an endless line must not fill memory, nor may reading stop, or the child blocks.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Bytes of a line that are kept; the rest of it is read and dropped.
const LINE_LIMIT_BYTES: usize = 8 * 1024;

/// The next line without its end, or `None` at the end of the output.
pub(crate) async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut any = false;
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            break;
        }
        any = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let text = &available[..end.unwrap_or(available.len())];
        line.extend_from_slice(&text[..text.len().min(LINE_LIMIT_BYTES.saturating_sub(line.len()))]);
        let consumed = end.map_or(available.len(), |end| end + 1);
        reader.consume(consumed);
        if end.is_some() {
            break;
        }
    }
    Ok(any.then(|| String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_cut_and_the_next_one_is_whole() {
        let text = format!("first\r\n{}\nlast", "x".repeat(LINE_LIMIT_BYTES * 2));
        let mut reader = tokio::io::BufReader::with_capacity(64, text.as_bytes());
        assert_eq!(next_line(&mut reader).await.unwrap().as_deref(), Some("first"));
        assert_eq!(next_line(&mut reader).await.unwrap().map(|line| line.len()), Some(LINE_LIMIT_BYTES));
        assert_eq!(next_line(&mut reader).await.unwrap().as_deref(), Some("last"));
        assert_eq!(next_line(&mut reader).await.unwrap(), None);
    }
}
