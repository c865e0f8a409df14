//! Reads server-sent events as they arrive, within bounds: what comes is another process's word. It knows the format of the WHATWG HTML
//! standard (section 9.2.6) and nothing of what the events mean.

/// Bytes of one event: a preview of 2048×2048 as base64 fits several times over.
pub(super) const EVENT_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// Why a stream cannot be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    #[error("an event of the stream is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("the stream is not UTF-8")]
    NotUtf8,
}

/// Cuts a stream of bytes into the `data` of its events, wherever the chunks are cut.
#[derive(Debug)]
pub(super) struct SseParser {
    limit_bytes: usize,
    line: Vec<u8>,
    data: Option<String>,
    /// A CR ended the last line: a LF that follows belongs to it.
    after_carriage_return: bool,
    at_start: bool,
}

impl Default for SseParser {
    fn default() -> Self {
        Self::with_limit(EVENT_LIMIT_BYTES)
    }
}

impl SseParser {
    pub(super) fn with_limit(limit_bytes: usize) -> Self {
        Self { limit_bytes, line: Vec::new(), data: None, after_carriage_return: false, at_start: true }
    }

    /// Takes the next bytes and returns the data of each event that they complete.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Vec<String>, SseError> {
        let mut events = Vec::new();
        for &byte in chunk {
            let follows_carriage_return = std::mem::replace(&mut self.after_carriage_return, byte == b'\r');
            match byte {
                b'\n' if follows_carriage_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ => {
                    if self.line.len() + self.data.as_ref().map_or(0, String::len) >= self.limit_bytes {
                        return Err(SseError::TooLarge { limit_bytes: self.limit_bytes });
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Result<Option<String>, SseError> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&bytes).map_err(|_| SseError::NotUtf8)?;
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.data.take());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        // `event`, `id` and `retry` say nothing that the data does not; an empty field is a comment that keeps the connection alive.
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}event: step\ndata: {\"a\":\ndata: 1}\n\n: alive\n\nid: 7\r\ndata:two\r\n\r\ndata\r\rdata: unfinished\n";

    fn expected() -> Vec<String> {
        vec!["{\"a\":\n1}".to_owned(), "two".to_owned(), String::new()]
    }

    #[test]
    fn events_are_read_with_every_kind_of_line_end() {
        assert_eq!(SseParser::default().push(STREAM.as_bytes()), Ok(expected()));
    }

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        for cut in 0..STREAM.len() {
            let mut parser = SseParser::default();
            let mut events = parser.push(&STREAM.as_bytes()[..cut]).unwrap();
            events.extend(parser.push(&STREAM.as_bytes()[cut..]).unwrap());
            assert_eq!(events, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused_at_the_limit() {
        let mut parser = SseParser::with_limit(16);
        assert_eq!(parser.push(b"data: 0123456789"), Ok(vec![]));
        assert_eq!(parser.push(b"0"), Err(SseError::TooLarge { limit_bytes: 16 }));
        let mut many_lines = SseParser::with_limit(16);
        assert_eq!(many_lines.push(b"data: 12345678\ndata: 12345678\n"), Err(SseError::TooLarge { limit_bytes: 16 }));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(SseParser::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    #[test]
    fn whatever_arrives_is_cut_alike_and_held_within_the_limit() {
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(bytes, cut)| {
            let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
            let whole = SseParser::with_limit(64).push(bytes);
            let mut parser = SseParser::with_limit(64);
            let parts = parser.push(first).and_then(|mut events| {
                events.extend(parser.push(second)?);
                Ok(events)
            });
            assert_eq!(whole, parts);
            // Line ends within the data come on top of what is counted.
            assert!(parts.is_err() || parts.is_ok_and(|events| events.iter().all(|event| event.len() <= 128)));
        });
    }
}
