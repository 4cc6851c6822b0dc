//! `${NAME}`: variables of the environment, filled in as what they are, text.
//!
//! Whatever a value holds, it can never become a part of a template: `{{` in it stands for itself. Within an expression
//! a value is a string, escaped where it stands in quotes; a number or a truth value stands for itself there.
mod lexer;
mod own;
#[cfg(test)]
mod tests;

pub use own::{is_own_setting, is_s3_setting, why_missing};

use lexer::{Lexer, State};

/// What stands between two variables, and a variable's name.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// `$${`: the characters themselves.
    Escaped,
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
        let end = after.find('}').ok_or(Unclosed)?;
        pieces.extend([Piece::Text(before), Piece::Variable(&after[2..end])]);
        rest = &after[end + 1..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// A text that is no template, filled; none when a variable is missing.
pub fn fill(text: &str, vars: Lookup<'_>) -> Result<Option<String>, Unclosed> {
    let mut out = String::with_capacity(text.len());
    let mut complete = true;
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Escaped => out.push_str("${"),
            Piece::Variable(name) => match vars(name) {
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
            Piece::Variable(name) => match vars(name) {
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
                literal(&vars(name).unwrap_or_default(), lexer.state, path, &mut out);
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
