//! Number formats of cells.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::sync::Arc;

use quick_xml::events::Event;

use crate::WorkbookError;
use crate::archive::Archive;
use crate::xml::attribute;

/// Formats that a workbook may have; Excel takes 65,490 of cells.
const MOST: usize = 100_000;

/// Bytes of a format that is read; Excel takes 255 characters.
const LONGEST_FORMAT: usize = 1024;

/// Bytes of all formats together: Excel takes some 250 of them.
const MOST_BYTES: usize = 1024 * 1024;

/// Stands for a point that is shown as it is, and is no decimal point.
const SHOWN_POINT: char = '\u{1}';

/// How a number is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// As it is.
    #[default]
    General,
    /// Digits and signs between them: `00000`, `000-00-0000`, `0# ## ## ## ##`, `+0`.
    Digits(Arc<str>),
    /// So many decimals, digits before them at least, and whether it is a percentage.
    Fixed { decimals: usize, whole: usize, percent: bool },
    /// A date, a time of day, or both; `elapsed`: a time that passed, which may be longer than a day.
    Moment { date: bool, time: bool, elapsed: bool },
    /// The first of these whose condition a number fulfils, such as Excel's own format of numbers of telephones.
    Sections(Arc<[(Condition, Format)]>),
}

/// For which numbers a section of a format is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// `[<N]` and `[<=N]`.
    Less { than: f64, or_same: bool },
    /// `[>N]` and `[>=N]`.
    More { than: f64, or_same: bool },
    /// `[=N]`.
    Same(f64),
    /// All others.
    Any,
}

impl Condition {
    /// Whether all numbers that fulfil it are negative, so that its section has their sign.
    pub fn is_for_negative(self) -> bool {
        matches!(self, Self::Less { than, or_same } if than < 0.0 || (than == 0.0 && !or_same))
    }

    /// Whether a number fulfils it.
    #[allow(clippy::float_cmp, reason = "as it is written")]
    pub fn takes(self, number: f64) -> bool {
        match self {
            Self::Less { than, or_same } => number < than || (or_same && number == than),
            Self::More { than, or_same } => number > than || (or_same && number == than),
            Self::Same(as_this) => number == as_this,
            Self::Any => true,
        }
    }

    /// Of a section, if it has one.
    fn of(section: &str) -> Option<Self> {
        let inside = section.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
        inside.into_iter().find_map(|(inside, _)| {
            let number = inside.trim_start_matches(['<', '>', '=']);
            let (sign, than) = (&inside[..inside.len() - number.len()], number.trim().parse().ok()?);
            match sign {
                "<" | "<=" => Some(Self::Less { than, or_same: sign == "<=" }),
                ">" | ">=" => Some(Self::More { than, or_same: sign == ">=" }),
                "=" => Some(Self::Same(than)),
                _ => None,
            }
        })
    }
}

/// The format of each style.
pub type Styles = Vec<Format>;

/// Reads them; a workbook may have none.
pub fn read<R: Read + Seek>(archive: &mut Archive<R>, name: &str) -> Result<Styles, WorkbookError> {
    let Some(mut part) = archive.part(name)? else { return Ok(Styles::new()) };
    let mut own: HashMap<u32, Format> = HashMap::new();
    let mut styles = Styles::new();
    let (mut of_cells, mut bytes) = (false, 0);
    loop {
        match part.next()? {
            Event::Start(start) | Event::Empty(start) => match start.local_name().as_ref() {
                b"numFmt" if own.len() < MOST => {
                    let id = attribute(&start, "numFmtId").and_then(|id| id.parse().ok());
                    let code = attribute(&start, "formatCode").filter(|code| code.len() <= LONGEST_FORMAT);
                    if let Some((id, code)) = id.zip(code) {
                        bytes += code.len();
                        if bytes > MOST_BYTES {
                            return Err(WorkbookError::TooLarge);
                        }
                        own.insert(id, of(&code));
                    }
                }
                b"cellXfs" => of_cells = true,
                b"xf" if of_cells && styles.len() < MOST => {
                    let id = attribute(&start, "numFmtId").and_then(|id| id.parse().ok()).unwrap_or(0);
                    styles.push(own.get(&id).cloned().unwrap_or_else(|| built_in(id)));
                }
                _ => {}
            },
            Event::End(end) if end.local_name().as_ref() == b"cellXfs" => of_cells = false,
            Event::Eof => return Ok(styles),
            _ => {}
        }
    }
}

fn fixed(decimals: usize, percent: bool) -> Format {
    Format::Fixed { decimals, whole: 1, percent }
}

/// Formats that every workbook has (ECMA-376, 18.8.30).
fn built_in(id: u32) -> Format {
    match id {
        1 | 3 | 5 | 6 | 37 | 38 | 41 | 42 => fixed(0, false),
        2 | 4 | 7 | 8 | 39 | 40 | 43 | 44 => fixed(2, false),
        9 => fixed(0, true),
        10 => fixed(2, true),
        14..=17 | 27..=31 | 36 | 50..=58 => Format::Moment { date: true, time: false, elapsed: false },
        18..=21 | 32..=35 | 45..=47 => Format::Moment { date: false, time: true, elapsed: id == 46 },
        22 => Format::Moment { date: true, time: true, elapsed: false },
        _ => Format::General,
    }
}

/// A format as it is written.
pub fn of(code: &str) -> Format {
    let sections: Vec<(Option<Condition>, &str)> =
        code.split(';').map(|section| (Condition::of(section), section)).collect();
    if sections.iter().any(|(condition, _)| condition.is_some()) {
        let sections = sections.into_iter().take(3);
        return Format::Sections(
            sections.map(|(condition, code)| (condition.unwrap_or(Condition::Any), section(code))).collect(),
        );
    }
    // Of the forms for positive, negative and other values the first.
    section(sections[0].1)
}

/// One of a format's sections.
fn section(code: &str) -> Format {
    let (with_texts, elapsed) = signs_of(code);
    let signs: String = with_texts.chars().filter(|c| text_sign(*c).is_none()).collect();
    if signs.eq_ignore_ascii_case("general") || signs.contains('@') {
        return Format::General;
    }
    let lower = signs.to_ascii_lowercase();
    let time = elapsed || lower.contains(['h', 's']);
    let date = lower.contains(['y', 'd']) || (lower.contains('m') && !time);
    if date || time {
        return Format::Moment { date, time, elapsed };
    }
    let (before, after) = signs.split_once('.').unwrap_or((&signs, ""));
    // From the first 0 on every place shows a digit.
    let whole = before.chars().skip_while(|c| *c != '0').filter(is_place).count();
    let plain = signs.chars().all(|c| matches!(c, '0' | '#' | SHOWN_POINT) || is_sign(c));
    let fraction = signs.contains('#') && signs.contains('/');
    // Without a 0 signs tell a number from one with blanks between its thousands.
    let grouped = signs.trim_matches(|c| !is_place(&c)).contains(['-', '(', ')']);
    if plain && !fraction && (whole > 1 || grouped || (whole == 1 && signs.starts_with('+'))) {
        // Texts beside them belong to what a number is called: `"KD-"00000`. Beside other numbers they are units.
        return Format::Digits(with_texts.replace(SHOWN_POINT, ".").trim().into());
    }
    if !signs.contains(['0', '#', '?']) || lower.contains("e+") || lower.contains("e-") || signs.contains('/')
    {
        return Format::General;
    }
    if after.contains(['#', '?']) {
        return Format::General;
    }
    let decimals = after.chars().take_while(|c| *c == '0').count();
    Format::Fixed { decimals, whole, percent: signs.contains('%') }
}

/// Whether it is a place for a digit.
fn is_place(c: &char) -> bool {
    matches!(c, '0' | '#' | '?')
}

/// Whether it is a sign that people put between digits, as in numbers of telephones.
fn is_sign(c: char) -> bool {
    matches!(c, '-' | ' ' | '/' | '(' | ')' | '+')
}

/// A sign that is shown as it is; none for other texts.
fn shown(c: char) -> Option<char> {
    if c == '.' { Some(SHOWN_POINT) } else { Some(c).filter(|c| is_sign(*c)) }
}

/// Where signs of texts stand in Unicode's private use: there no format has any.
const TEXTS: u32 = 0xF_0000;

/// A sign of a text in a format, apart from those that have a meaning in it; none beyond the first plane.
fn of_text(c: char) -> Option<char> {
    Some(u32::from(c)).filter(|c| *c < 0xFFFE).and_then(|c| char::from_u32(TEXTS + c))
}

/// The sign that a text has there; none: it is no text.
pub(crate) fn text_sign(c: char) -> Option<char> {
    u32::from(c).checked_sub(TEXTS).and_then(char::from_u32)
}

/// The signs of a format, texts apart from them, without escapes, colours, conditions and currencies; and whether it shows time that passed.
fn signs_of(code: &str) -> (String, bool) {
    let (mut signs, mut elapsed) = (String::new(), false);
    let mut rest = code.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                let text: String = rest.by_ref().take_while(|c| *c != '"').collect();
                if text.chars().all(|c| c == '.' || is_sign(c)) {
                    signs.extend(text.chars().filter_map(shown));
                } else {
                    signs.extend(text.chars().filter_map(of_text));
                }
            }
            // What comes after them: a sign as it is, a blank of its width, a sign that fills.
            '\\' => signs.extend(rest.next().and_then(|c| shown(c).or_else(|| of_text(c)))),
            '_' | '*' => {
                rest.next();
            }
            '[' => {
                let inside: String = rest.by_ref().take_while(|c| *c != ']').collect();
                let inside = inside.to_ascii_lowercase();
                elapsed |= !inside.is_empty() && inside.chars().all(|c| matches!(c, 'h' | 'm' | 's'));
            }
            c => signs.push(c),
        }
    }
    (signs, elapsed)
}
