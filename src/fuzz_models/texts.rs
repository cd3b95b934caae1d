//! What holds of every text that a person is to read.

/// One line each. What steers terminals is escaped by who writes the line.
#[track_caller]
pub(crate) fn check_lines<'a>(texts: impl IntoIterator<Item = &'a String>) {
    for text in texts {
        assert!(!text.contains(['\n', '\r']) && !text.is_empty(), "not one line: {text:?}");
    }
}

/// None of these texts has the secret in it.
#[track_caller]
pub(crate) fn check_no_secret<'a>(secret: &str, texts: impl IntoIterator<Item = &'a String>) {
    for text in texts {
        assert!(!text.contains(secret), "{text:?} names the secret {secret:?}");
    }
}
