//! Quantities of bytes as Kubernetes spells them: `512Mi`, `16G`, `1.5Gi`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("m", 1e-3),
];

/// Bytes, rounded down; `None` if it is no quantity or negative.
pub(crate) fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let (number, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor))).unwrap_or((text, 1.0));
    let value = number.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)? * factor;
    // The cast saturates, and what is larger than all memory need not be exact.
    Some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        let bytes = |text: &str| bytes(&Quantity(text.to_owned()));
        for (text, expected) in
            [("0", 0), ("1024", 1024), ("1Ki", 1024), ("1.5Gi", 1_610_612_736), ("16G", 16_000_000_000), ("1e3", 1000), ("1500m", 1)]
        {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "Gi", "-1", "many", "1 Gi x"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }
}
