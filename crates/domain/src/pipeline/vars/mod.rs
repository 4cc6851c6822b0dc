//! `${NAME}`: variables of the environment, filled in as what they are, text.
//!
//! Whatever a value holds, it can never become a part of a template: `{{` in it stands for itself. Within an expression
//! a value is a string, escaped where it stands in quotes; a number or a truth value stands for itself there.
//! `${file:PATH}` is a variable whose value a file holds.
mod lexer;
mod own;
#[cfg(test)]
mod tests;

pub use own::{is_object_store_setting, is_own_setting, why_missing};

use std::borrow::Cow;

use lexer::{Lexer, State};

/// `${file:PATH}` is what a file holds, without the line end behind it.
pub const FILE: &str = "file:";

/// What stands between two variables, and a variable's name.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// `$${`: the characters themselves.
    Escaped,
    /// A variable's name, or `file:` and a path, in which variables may stand.
    Variable(&'a str),
}

/// What becomes of a `${NAME}` that has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// An error: the definition cannot make its calls.
    Refused,
    /// It stays open. For services that make no calls and must not hold the values.
    Allowed,
}

/// A `${` that nothing closes.
#[derive(Debug, PartialEq)]
pub struct Unclosed;

/// Looks a variable up; none has been reported by then.
pub type Lookup<'a> = &'a mut dyn FnMut(&str) -> Option<String>;

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Unclosed> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            pieces.extend([Piece::Text(before), Piece::Escaped]);
            rest = &after[2..];
            continue;
        }
        let end = closing(after).ok_or(Unclosed)?;
        pieces.extend([Piece::Text(before), Piece::Variable(&after[2..end])]);
        rest = &after[end + 1..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// Where the `}` of a `${` at the beginning stands; the path of a file may have variables of its own.
fn closing(text: &str) -> Option<usize> {
    let mut from = 2;
    if text[from..].starts_with(FILE) {
        while let Some(nested) = text[from..].find("${").map(|at| from + at) {
            if text[from..nested].contains('}') {
                break;
            }
            from = nested + text[nested..].find('}')? + 1;
        }
    }
    text[from..].find('}').map(|at| from + at)
}

/// What is looked up for a piece: a variable's name, or `file:` and the path with its variables filled in. None when one of
/// these is missing.
fn looked_up<'a>(name: &'a str, vars: Lookup<'_>) -> Option<Cow<'a, str>> {
    match name.strip_prefix(FILE) {
        Some(path) if path.contains("${") => {
            let path = fill(path, vars).ok().flatten()?;
            Some(Cow::Owned(format!("{FILE}{path}")))
        }
        _ => Some(Cow::Borrowed(name)),
    }
}

/// A variable's value, or what a file holds.
fn value(name: &str, vars: Lookup<'_>) -> Option<String> {
    let name = looked_up(name, vars)?;
    vars(&name)
}

/// A part of a dependency's text.
#[derive(Debug, PartialEq)]
pub enum Section {
    /// A template in which the variables are filled, and without a `${file:…}`.
    Filled(Filled),
    /// The path of a file that is read when the text is needed.
    File(String),
}

/// Why a text has no sections.
#[derive(Debug, PartialEq)]
pub enum Unusable {
    /// See [`Unclosed`].
    Unclosed,
    /// A `${file:…}` stands in an expression.
    FileInCode,
}

/// A text whose files are read when it is needed, in its sections; none when a variable is missing. A file's content is looked
/// up as well, to see that there is one.
pub fn sections(text: &str, vars: Lookup<'_>) -> Result<Option<Vec<Section>>, Unusable> {
    let mut sections = Vec::new();
    let mut complete = true;
    let mut lexer = Lexer::default();
    // Where the section under way begins in the text.
    let (mut begin, mut at) = (0, 0);
    for piece in pieces(text).map_err(|Unclosed| Unusable::Unclosed)? {
        let length = match &piece {
            Piece::Text(text) => {
                lexer.read(text);
                text.len()
            }
            Piece::Escaped => 3,
            Piece::Variable(name) => name.len() + 3,
        };
        let end = at + length;
        if let Piece::Variable(name) = piece
            && name.starts_with(FILE)
        {
            if lexer.state != State::Text {
                return Err(Unusable::FileInCode);
            }
            complete &= section(&text[begin..at], vars, &mut sections);
            match looked_up(name, vars) {
                Some(file) => {
                    complete &= vars(&file).is_some();
                    sections.push(Section::File(file[FILE.len()..].to_owned()));
                }
                None => complete = false,
            }
            begin = end;
        }
        lexer.border();
        at = end;
    }
    complete &= section(&text[begin..], vars, &mut sections);
    Ok(complete.then_some(sections))
}

/// Adds what stands between two files; false when a variable is missing.
fn section(text: &str, vars: Lookup<'_>, sections: &mut Vec<Section>) -> bool {
    if text.is_empty() {
        return true;
    }
    match fill_template(text, false, vars) {
        Ok(Some(filled)) => {
            sections.push(Section::Filled(filled));
            true
        }
        _ => false,
    }
}

/// The name of a variable that is written without its braces: `$NAME`.
pub fn bare(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Some(&rest[..end]);
        }
    }
    None
}

/// A text that is no template, filled; none when a variable is missing.
pub fn fill(text: &str, vars: Lookup<'_>) -> Result<Option<String>, Unclosed> {
    let mut out = String::with_capacity(text.len());
    let mut complete = true;
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Escaped => out.push_str("${"),
            Piece::Variable(name) => match value(name, vars) {
                Some(value) => out.push_str(&value),
                None => complete = false,
            },
        }
    }
    Ok(complete.then_some(out))
}

/// A template, filled.
#[derive(Debug, PartialEq)]
pub enum Filled {
    /// It has no expression: this is what it says.
    Plain(String),
    /// A template, in which values are literals.
    Template(String),
}

/// A template, filled; none when a variable is missing. In a path braces are percent-encoded, as they are in a URL.
pub fn fill_template(text: &str, path: bool, vars: Lookup<'_>) -> Result<Option<Filled>, Unclosed> {
    let pieces = pieces(text)?;
    let mut complete = true;
    // The first pass shows whether there is any expression, without which there is nothing to escape.
    let mut lexer = Lexer::default();
    let mut plain = String::with_capacity(text.len());
    for piece in &pieces {
        match piece {
            Piece::Text(text) => {
                lexer.read(text);
                plain.push_str(text);
            }
            Piece::Escaped => plain.push_str("${"),
            Piece::Variable(name) => match value(name, vars) {
                Some(value) => plain.push_str(&value),
                None => complete = false,
            },
        }
        lexer.border();
    }
    if !complete {
        return Ok(None);
    }
    if !lexer.seen {
        return Ok(Some(Filled::Plain(plain)));
    }
    let mut lexer = Lexer::default();
    let mut out = String::with_capacity(text.len() * 2);
    for piece in &pieces {
        match piece {
            Piece::Text(text) => {
                lexer.read(text);
                out.push_str(text);
            }
            Piece::Escaped => literal("${", lexer.state, path, &mut out),
            Piece::Variable(name) => {
                literal(&value(name, vars).unwrap_or_default(), lexer.state, path, &mut out);
            }
        }
        lexer.border();
    }
    Ok(Some(Filled::Template(out)))
}

/// Appends a value as a literal of the place where it stands.
fn literal(value: &str, state: State, path: bool, out: &mut String) {
    match state {
        State::Text if path => {
            // A brace before the value would make a beginning of it.
            if out.ends_with('{') {
                out.pop();
                out.push_str("%7B");
            }
            out.push_str(&value.replace('{', "%7B"));
        }
        State::Text => {
            let brace = if out.ends_with('{') { out.pop() } else { None };
            for text in brace.map(String::from).iter().map(String::as_str).chain([value]) {
                out.push_str("{{ \"");
                escape(text, '"', out);
                out.push_str("\" }}");
            }
        }
        State::Raw => {
            out.push_str("{% endraw %}{{ \"");
            escape(value, '"', out);
            out.push_str("\" }}{% raw %}");
        }
        State::Quoted(quote) => escape(value, quote, out),
        State::Code(_)
            if value.parse::<f64>().is_ok_and(f64::is_finite) || value == "true" || value == "false" =>
        {
            out.push_str(value);
        }
        State::Code(_) => {
            out.push('"');
            escape(value, '"', out);
            out.push('"');
        }
        // Nobody reads it.
        State::Comment => {}
    }
}

fn escape(value: &str, quote: char, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
}
