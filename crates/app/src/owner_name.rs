//! Owners' names, as operators write them.

/// Reads an owner's name, as a command or a setting gives it.
///
/// # Errors
/// A sentence, when it is none.
pub fn owner_name(text: &str) -> Result<String, String> {
    const MOST: usize = 64;
    let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = (1..=MOST).contains(&text.len()) && text.chars().all(named) && !text.starts_with('.');
    if good {
        Ok(text.to_owned())
    } else {
        Err("an owner's name has 1 to 64 letters, digits, `-`, `_` and `.`".to_owned())
    }
}
