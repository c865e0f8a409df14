//! `safety_checker` and `safety_checker_type`, in every dialect.

use runtime_api::SafetyStyle;

use crate::refusal::Refusal;

/// The vendor's, where a call names none.
pub(super) const DEFAULT_STYLE: SafetyStyle = SafetyStyle::SensitiveContentText;

/// What becomes of unsafe images; `None` where they are not checked. A style alone asks for nothing: clients send it with every call.
pub(super) fn style(checker: Option<bool>, style: Option<&str>) -> Result<Option<SafetyStyle>, Refusal> {
    if checker != Some(true) {
        return Ok(None);
    }
    let Some(asked) = style else { return Ok(Some(DEFAULT_STYLE)) };
    let known = SafetyStyle::ALL.into_iter().find(|style| style.name().eq_ignore_ascii_case(asked.trim()));
    known.map(Some).ok_or_else(|| {
        let message = format!("safety_checker_type must be one of {}", SafetyStyle::ALL.map(SafetyStyle::name).join(", "));
        Refusal::Invalid { field: "safety_checker_type".to_owned(), message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_checked_where_that_is_asked_for_and_only_there() {
        assert_eq!(style(None, None), Ok(None));
        assert_eq!(style(Some(false), Some("blur")), Ok(None));
        assert_eq!(style(None, Some("nonsense")), Ok(None));
        assert_eq!(style(Some(true), None), Ok(Some(SafetyStyle::SensitiveContentText)));
        assert_eq!(style(Some(true), Some("Pixelate")), Ok(Some(SafetyStyle::Pixelate)));
        assert!(style(Some(true), Some("nonsense")).is_err_and(|refusal| refusal.to_string().contains("blur, pixelate, black")));
    }
}
