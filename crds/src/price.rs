//! Money: US dollars, written as a decimal string (`"0.002"`), held as whole micro-dollars.
//!
//! No float touches money: a binary fraction cannot hold 0.002, and a thousand of them no longer add up. A string
//! rather than an integer of micro-dollars in the manifest, because people write and review these prices.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::rule;

/// Micro-dollars in a dollar.
pub const MICRO_DOLLARS_PER_DOLLAR: i64 = 1_000_000;
/// Digits before the point; with six after it every price fits an `i64` a hundred thousand times over.
const MAX_WHOLE_DIGITS: usize = 7;
/// Digits after the point: one micro-dollar is the smallest price.
const MAX_FRACTION_DIGITS: usize = 6;

/// An amount of US dollars, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price {
    micro_dollars: i64,
}

/// The text is not a price; the message says what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsePriceError;

impl fmt::Display for ParsePriceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(rule::PRICE.message)
    }
}

impl std::error::Error for ParsePriceError {}

impl Price {
    /// The amount in micro-dollars, the unit of the ledger.
    pub fn micro_dollars(self) -> i64 {
        self.micro_dollars
    }
}

impl FromStr for Price {
    type Err = ParsePriceError;

    fn from_str(text: &str) -> Result<Self, ParsePriceError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(ParsePriceError),
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > MAX_WHOLE_DIGITS || fraction.len() > MAX_FRACTION_DIGITS || !digits(whole) || !digits(fraction)
        {
            return Err(ParsePriceError);
        }
        let dollars: i64 = whole.parse().map_err(|_| ParsePriceError)?;
        let micro: i64 = format!("{fraction:0<MAX_FRACTION_DIGITS$}").parse().map_err(|_| ParsePriceError)?;
        Ok(Self { micro_dollars: dollars * MICRO_DOLLARS_PER_DOLLAR + micro })
    }
}

impl fmt::Display for Price {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.micro_dollars / MICRO_DOLLARS_PER_DOLLAR;
        let micro = self.micro_dollars % MICRO_DOLLARS_PER_DOLLAR;
        if micro == 0 {
            return write!(formatter, "{dollars}");
        }
        let fraction = format!("{micro:0MAX_FRACTION_DIGITS$}");
        write!(formatter, "{dollars}.{}", fraction.trim_end_matches('0'))
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Price {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Price".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_WHOLE_DIGITS + 1 + MAX_FRACTION_DIGITS,
            "x-kubernetes-validations": rule::schema(&[&rule::PRICE]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_dollars_become_exact_micro_dollars() {
        for (text, micro_dollars) in
            [("0", 0), ("47", 47_000_000), ("0.002", 2_000), ("0.000001", 1), ("12.5", 12_500_000), ("9999999.999999", 9_999_999_999_999)]
        {
            assert_eq!(text.parse::<Price>().map(Price::micro_dollars), Ok(micro_dollars), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_price_is_refused() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "$1", "1,5", " 1", "1.0000001", "12345678", "1.2.3", "١"] {
            assert_eq!(text.parse::<Price>(), Err(ParsePriceError), "{text:?}");
        }
    }

    #[test]
    fn a_price_is_written_as_short_as_it_can_be_read_back() {
        for (text, written) in [("0.0020", "0.002"), ("47.00", "47"), ("10", "10")] {
            let price: Price = text.parse().unwrap();
            assert_eq!(price.to_string(), written);
            assert_eq!(written.parse(), Ok(price));
        }
    }
}
