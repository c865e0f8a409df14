//! Spans of time as people write them in manifests: `60s`, `1h30m`, `500ms`.
//!
//! The syntax is the whole-number part of Kubernetes' own durations, so that CEL's `duration()` reads the same text.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::rule;

/// The longest span a manifest may ask for: 365 days. A bound, so that adding it to a clock cannot overflow.
pub const MAX: Duration = Duration::from_secs(8760 * 3600);
/// Digits of one number in the text; the bound keeps every product within an `u64`.
const MAX_DIGITS: usize = 10;
/// Characters of the whole text.
const MAX_TEXT_LENGTH: usize = 32;

/// A span of time between zero and [`MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timespan(Duration);

/// The text is not a span of time; the message says what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimespanError;

impl fmt::Display for ParseTimespanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(rule::TIMESPAN.message)
    }
}

impl std::error::Error for ParseTimespanError {}

impl Timespan {
    /// A span of whole seconds; more than [`MAX`] becomes [`MAX`].
    pub const fn from_secs(seconds: u64) -> Self {
        if seconds > MAX.as_secs() { Self(MAX) } else { Self(Duration::from_secs(seconds)) }
    }

    /// The span as the standard library's type.
    pub const fn as_duration(self) -> Duration {
        self.0
    }
}

impl From<Timespan> for Duration {
    fn from(span: Timespan) -> Self {
        span.0
    }
}

impl FromStr for Timespan {
    type Err = ParseTimespanError;

    fn from_str(text: &str) -> Result<Self, ParseTimespanError> {
        if text.is_empty() || text.len() > MAX_TEXT_LENGTH {
            return Err(ParseTimespanError);
        }
        let mut rest = text;
        let mut total_ms: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > MAX_DIGITS {
                return Err(ParseTimespanError);
            }
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| ParseTimespanError)?;
            // `ms` before `m`: the longer unit wins.
            let (unit_ms, after) = if let Some(after) = after.strip_prefix("ms") {
                (1, after)
            } else if let Some(after) = after.strip_prefix('s') {
                (1_000, after)
            } else if let Some(after) = after.strip_prefix('m') {
                (60_000, after)
            } else if let Some(after) = after.strip_prefix('h') {
                (3_600_000, after)
            } else {
                return Err(ParseTimespanError);
            };
            total_ms = number.checked_mul(unit_ms).and_then(|span_ms| total_ms.checked_add(span_ms)).ok_or(ParseTimespanError)?;
            rest = after;
        }
        let span = Duration::from_millis(total_ms);
        if span > MAX {
            return Err(ParseTimespanError);
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Timespan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total_ms = self.0.as_millis();
        if total_ms == 0 {
            return formatter.write_str("0s");
        }
        for (amount, unit) in
            [(total_ms / 3_600_000, "h"), (total_ms / 60_000 % 60, "m"), (total_ms / 1_000 % 60, "s"), (total_ms % 1_000, "ms")]
        {
            if amount > 0 {
                write!(formatter, "{amount}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Timespan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timespan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Timespan {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timespan".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_TEXT_LENGTH,
            "x-kubernetes-validations": rule::schema(&[&rule::TIMESPAN]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, expected_ms) in
            [("0s", 0), ("60s", 60_000), ("500ms", 500), ("1h30m", 5_400_000), ("1m500ms", 60_500), ("8760h", 31_536_000_000)]
        {
            let span: Timespan = text.parse().unwrap();
            assert_eq!(span.as_duration(), Duration::from_millis(expected_ms), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_span_is_refused() {
        for text in ["", "60", "s", "-1s", "1.5h", "1d", "1 s", "8761h", "99999999999s", "9999999999h9999999999h", "1h30", "１s"] {
            assert_eq!(text.parse::<Timespan>(), Err(ParseTimespanError), "{text:?}");
        }
    }

    #[test]
    fn a_span_is_written_in_the_largest_units_and_reads_back() {
        for (text, written) in [("60s", "1m"), ("3661s", "1h1m1s"), ("1500ms", "1s500ms"), ("0s", "0s")] {
            let span: Timespan = text.parse().unwrap();
            assert_eq!(span.to_string(), written);
            assert_eq!(written.parse(), Ok(span));
        }
    }
}
