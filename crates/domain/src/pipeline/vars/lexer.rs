//! Where in a template a variable is: in text, in code, in a string, in a comment.

/// Where in a template a character stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum State {
    #[default]
    Text,
    /// Between `{{` or `{%` and its end: a `}` or a `%` before a `}`.
    Code(char),
    /// In a string there.
    Quoted(char),
    Comment,
    /// Between `{% raw %}` and `{% endraw %}`.
    Raw,
}

/// Follows a template's text, as far as the place of a variable depends on it.
#[derive(Debug, Default)]
pub struct Lexer {
    pub state: State,
    /// The end of the code around a string.
    end: char,
    /// What stands in the tag so far.
    tag: String,
    before: char,
    escaped: bool,
    /// Brackets that are open: the end of the code is not looked for between them.
    depth: u32,
    /// Whether there is anything but text.
    pub seen: bool,
}

impl Lexer {
    /// A variable stands between what was read and what comes: they make no sign together.
    pub fn border(&mut self) {
        self.before = '\0';
        self.escaped = false;
    }

    pub fn read(&mut self, text: &str) {
        text.chars().for_each(|c| self.next(c));
    }

    fn next(&mut self, c: char) {
        let before = std::mem::replace(&mut self.before, c);
        match self.state {
            State::Text if before == '{' && matches!(c, '{' | '%' | '#') => {
                self.seen = true;
                self.tag.clear();
                self.state = match c {
                    '{' => State::Code('}'),
                    '%' => State::Code('%'),
                    _ => State::Comment,
                };
                self.before = '\0';
            }
            State::Text => {}
            State::Comment => {
                if before == '#' && c == '}' {
                    self.leave();
                }
            }
            State::Raw => {
                self.tag.push(c);
                let tail = self.tag.trim_end_matches('}').trim_end_matches(['%', '-', '+']).trim_end();
                if c == '}' && before == '%' && tail.ends_with("endraw") {
                    self.leave();
                }
            }
            State::Code(end) => self.code(c, before, end),
            State::Quoted(quote) => {
                if self.escaped {
                    self.escaped = false;
                } else if c == '\\' {
                    self.escaped = true;
                } else if c == quote {
                    self.state = State::Code(self.end);
                    self.before = '\0';
                }
            }
        }
    }

    /// A character between `{{` or `{%` and its end.
    fn code(&mut self, c: char, before: char, end: char) {
        if before == end && c == '}' && self.depth == 0 {
            let raw = end == '%' && self.tag.trim_end_matches('%').trim_matches(['-', '+']).trim() == "raw";
            self.leave();
            if raw {
                self.state = State::Raw;
            }
            return;
        }
        self.tag.push(c);
        match c {
            '"' | '\'' => {
                self.end = end;
                self.state = State::Quoted(c);
            }
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' if self.depth > 0 => {
                self.depth -= 1;
                self.before = '\0';
            }
            _ => {}
        }
    }

    fn leave(&mut self) {
        self.tag.clear();
        self.depth = 0;
        self.before = '\0';
        self.state = State::Text;
    }
}
