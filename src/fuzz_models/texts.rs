//! Properties of every text for operators.

/// Checks that each text is one line. Other control characters are escaped by the log.
#[track_caller]
pub(crate) fn check_lines<'a>(texts: impl IntoIterator<Item = &'a String>) {
    for text in texts {
        assert!(!text.contains(['\n', '\r']) && !text.is_empty(), "not one line: {text:?}");
    }
}

/// Checks that no text contains the secret.
#[track_caller]
pub(crate) fn check_no_secret<'a>(secret: &str, texts: impl IntoIterator<Item = &'a String>) {
    for text in texts {
        assert!(!text.contains(secret), "{text:?} contains the secret {secret:?}");
    }
}
