//! Filters, tests and functions, tried out: whether a template's use of one can succeed for any values at all.
//!
//! The engine tells arguments apart by kind, and reports a wrong number of them only once the kinds of the others are
//! right. So a use is tried with values of every kind, and is a mistake only when none of them is taken and one of the
//! refusals is about the number or the names of arguments. What depends on data is never a mistake.
#![allow(missing_docs, reason = "private to the loader")]

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::names::{hint, nearest};

/// Combinations that are tried at most; with more arguments than that allows all unknown ones are of one kind.
const COMBINATIONS: usize = 4096;

/// Constants of a definition are tried as they stand when they are small, so that trying costs nothing.
const LONGEST: usize = 200;

/// Names that are proposed for one that is none. Only for proposals: what there is the engine says.
const FILTERS: [&str; 55] = [
    "abs",
    "attr",
    "base64",
    "base64decode",
    "batch",
    "bool",
    "capitalize",
    "count",
    "date",
    "default",
    "dictsort",
    "escape",
    "first",
    "float",
    "format",
    "fromjson",
    "groupby",
    "hex",
    "hmac_sha256",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "md5",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sha1",
    "sha256",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
    "uuid",
    "zip",
];
const TESTS: [&str; 22] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "string",
    "undefined",
];

/// What a call is given, as far as it is known.
pub struct Given<'a> {
    /// The value that a filter or test is applied to, and positional arguments; none: known only when a row runs.
    pub values: Vec<Option<Value>>,
    /// Arguments by name.
    pub named: Vec<(&'a str, Option<Value>)>,
}

/// What can be called.
#[derive(Clone, Copy, PartialEq)]
pub enum What {
    Filter,
    Test,
    Function,
}

impl What {
    const fn named(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Test => "test",
            Self::Function => "function",
        }
    }
}

/// Whether there is one of that name; the error says what to write instead.
pub fn exists(environment: &Environment<'_>, what: What, name: &str) -> Result<(), String> {
    let known: Vec<&str> = match what {
        What::Filter | What::Test => {
            let mut state = environment.empty_state();
            if state.perform_test(what.named(), &[Value::from(name)]).unwrap_or(true) {
                return Ok(());
            }
            if what == What::Filter { FILTERS.to_vec() } else { TESTS.to_vec() }
        }
        What::Function => {
            // Operators are functions too, whose names nobody can write.
            let written =
                |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric()) && *name != "in";
            let is_function = |name: &&str| written(name) && *name != super::engine::OMIT;
            let known: Vec<&str> = environment.globals().map(|(name, _)| name).filter(is_function).collect();
            if known.contains(&name) {
                return Ok(());
            }
            known
        }
    };
    // Two dozen names are no proposal.
    let hint = match nearest(name, &known) {
        None if what != What::Function => "; minijinja's built-in ones can be used".to_owned(),
        _ => hint(name, &known),
    };
    Err(format!("unknown {} `{name}` in a template{hint}", what.named()))
}

/// Why a use can never succeed, when that is because of the number or the names of its arguments.
pub fn misuse(environment: &Environment<'_>, what: What, name: &str, given: &Given<'_>) -> Option<String> {
    // A constant of the wrong kind hides a wrong number: then other constants are tried.
    let open = Given {
        values: vec![None; given.values.len()],
        named: given.named.iter().map(|(name, _)| (*name, None)).collect(),
    };
    let mut wrong = None;
    for given in [given, &open] {
        for arguments in tried(given, what) {
            let Err(error) = call(environment, what, name, &arguments) else { return None };
            let about = match error.kind() {
                ErrorKind::MissingArgument => Some("an argument is missing"),
                ErrorKind::TooManyArguments => Some(error.detail().unwrap_or("it takes no such argument")),
                _ => None,
            };
            if wrong.is_none() {
                wrong = about.map(str::to_owned);
            }
        }
        if wrong.is_some() {
            break;
        }
    }
    wrong.map(|wrong| format!("{} `{name}` in a template: {wrong}", what.named()))
}

/// Whether a filter or test that is applied to what is not there fails for certain.
pub fn needs_value(environment: &Environment<'_>, what: What, name: &str, given: &Given<'_>) -> bool {
    let mut given = Given { values: given.values.clone(), named: given.named.clone() };
    given.values[0] = Some(Value::UNDEFINED);
    tried(&given, what).all(|arguments| call(environment, what, name, &arguments).is_err())
}

fn call(environment: &Environment<'_>, what: What, name: &str, arguments: &[Value]) -> Result<(), Error> {
    let mut state: State<'_, '_> = environment.empty_state();
    match what {
        What::Filter => state.apply_filter(name, arguments).map(drop),
        What::Test => state.perform_test(name, arguments).map(drop),
        What::Function => match environment.globals().find(|(known, _)| *known == name) {
            Some((_, function)) => function.call(&mut state, arguments).map(drop),
            None => Err(ErrorKind::UnknownFunction.into()),
        },
    }
}

/// Every combination of kinds for what is not known.
fn tried<'a>(given: &'a Given<'_>, what: What) -> impl Iterator<Item = Vec<Value>> + 'a {
    let places: Vec<Vec<Value>> = given
        .values
        .iter()
        .enumerate()
        .map(|(place, known)| kinds(known.as_ref(), place == 0 && what != What::Function, given.values.len()))
        .chain(given.named.iter().map(|(_, known)| kinds(known.as_ref(), false, 0)))
        .collect();
    let all = places.iter().map(Vec::len).try_fold(1_usize, usize::checked_mul);
    let apart = all.is_some_and(|all| all <= COMBINATIONS);
    let count = if apart { all.unwrap_or(1) } else { places.iter().map(Vec::len).max().unwrap_or(1) };
    (0..count).map(move |mut number| {
        let mut chosen: Vec<Value> = places
            .iter()
            .map(|kinds| {
                let at = number % kinds.len();
                if apart {
                    number /= kinds.len();
                }
                kinds[at].clone()
            })
            .collect();
        let named = chosen.split_off(given.values.len());
        if !named.is_empty() {
            let names = given.named.iter().map(|(name, _)| (*name).to_owned());
            chosen.push(Value::from(names.zip(named).collect::<Kwargs>()));
        }
        chosen
    })
}

/// A value of each kind; what is known is of its own.
fn kinds(known: Option<&Value>, applied_to: bool, arguments: usize) -> Vec<Value> {
    if let Some(known) = known {
        let small = match known.kind() {
            ValueKind::Undefined | ValueKind::None | ValueKind::Bool => true,
            ValueKind::String => known.len().is_some_and(|length| length <= LONGEST),
            ValueKind::Number => {
                i64::try_from(known.clone()).is_ok_and(|number| (-10..=10).contains(&number))
            }
            _ => false,
        };
        return vec![if small { known.clone() } else { same_kind(known) }];
    }
    let mut kinds = vec![
        Value::from("a"),
        Value::from(1),
        Value::from(true),
        Value::from(vec![Value::from("a"), Value::from("b")]),
        Value::from_iter([("a", Value::from(1))]),
    ];
    if applied_to {
        // What some filters are picky about: numbers as text, lists of lists, text with as many places as arguments.
        kinds.push(Value::from("1"));
        kinds.push(Value::from(1.5));
        kinds.push(Value::from(vec![Value::from(vec![Value::from(1), Value::from(2)])]));
        kinds.push(Value::from(vec![Value::from_iter([("a", Value::from(1))])]));
        kinds.push(Value::from("%s".repeat(arguments.saturating_sub(1))));
    }
    kinds
}

fn same_kind(known: &Value) -> Value {
    match known.kind() {
        ValueKind::String => Value::from("a"),
        ValueKind::Number => Value::from(2),
        ValueKind::Map => Value::from_iter([("a", Value::from(1))]),
        _ => Value::from(vec![Value::from("a"), Value::from("b")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is used, with which values and which arguments by name.
    type Use = (What, &'static str, Vec<Option<Value>>, Vec<(&'static str, Option<Value>)>);

    fn misuse_of(
        what: What,
        name: &str,
        values: &[Option<Value>],
        named: &[(&str, Option<Value>)],
    ) -> String {
        let environment = super::super::template::environment();
        let given = Given { values: values.to_vec(), named: named.to_vec() };
        misuse(&environment, what, name, &given).unwrap_or_default()
    }

    #[test]
    fn names_that_are_proposed_exist() {
        let environment = super::super::template::environment();
        for name in FILTERS {
            assert_eq!(exists(&environment, What::Filter, name), Ok(()));
        }
        for name in TESTS {
            assert_eq!(exists(&environment, What::Test, name), Ok(()));
        }
        for (what, name, wanted) in [
            (What::Filter, "uper", "unknown filter `uper` in a template; did you mean `upper`?"),
            (
                What::Filter,
                "checksum",
                "unknown filter `checksum` in a template; minijinja's built-in ones can be used",
            ),
            (What::Test, "defind", "unknown test `defind` in a template; did you mean `defined`?"),
            (
                What::Function,
                "today",
                "unknown function `today` in a template; there are: debug, dict, namespace, now, range",
            ),
        ] {
            assert_eq!(exists(&environment, what, name).unwrap_err(), wanted);
        }
    }

    #[test]
    fn wrong_numbers_of_arguments_are_mistakes_and_kinds_are_data() {
        let (any, two) = (None, Some(Value::from(2)));
        let wrong: [Use; 10] = [
            (What::Filter, "replace", vec![any.clone()], vec![]),
            (What::Filter, "replace", vec![any.clone(), Some(Value::from("a"))], vec![]),
            (What::Filter, "upper", vec![any.clone(), any.clone()], vec![]),
            (What::Filter, "round", vec![any.clone(), two.clone(), two.clone(), two.clone()], vec![]),
            (
                What::Filter,
                "join",
                vec![any.clone(), any.clone(), any.clone(), any.clone(), any.clone()],
                vec![],
            ),
            (What::Filter, "upper", vec![any.clone()], vec![("x", two.clone())]),
            (What::Test, "divisibleby", vec![any.clone()], vec![]),
            (What::Test, "odd", vec![any.clone(), two.clone()], vec![]),
            (What::Function, "range", vec![], vec![]),
            (What::Function, "range", vec![any.clone(), any.clone(), any.clone(), any.clone()], vec![]),
        ];
        for (what, name, values, named) in wrong {
            let message = misuse_of(what, name, &values, &named);
            assert!(
                message.starts_with(&format!("{} `{name}` in a template: ", what.named())),
                "{name} {message}"
            );
        }
        let right: [Use; 14] = [
            (What::Filter, "int", vec![any.clone()], vec![]),
            (What::Filter, "int", vec![Some(Value::from("x"))], vec![]),
            (What::Filter, "replace", vec![any.clone(), any.clone(), any.clone()], vec![]),
            (What::Filter, "default", vec![any.clone(), any.clone(), Some(Value::from(true))], vec![]),
            (What::Filter, "round", vec![any.clone(), two.clone()], vec![]),
            (What::Filter, "dictsort", vec![any.clone()], vec![("by", Some(Value::from("value")))]),
            (What::Filter, "format", vec![any.clone(), any.clone(), any.clone()], vec![]),
            (
                What::Filter,
                "selectattr",
                vec![any.clone(), any.clone(), Some(Value::from("eq")), any.clone()],
                vec![],
            ),
            (What::Filter, "map", vec![any.clone()], vec![("attribute", Some(Value::from("id")))]),
            (What::Filter, "indent", vec![any.clone(), Some(Value::from(1_000_000_000_000_i64))], vec![]),
            (What::Test, "defined", vec![any.clone()], vec![]),
            (What::Test, "in", vec![any.clone(), any.clone()], vec![]),
            (What::Function, "range", vec![any.clone(), any.clone()], vec![]),
            (What::Function, "dict", vec![], vec![("a", any.clone())]),
        ];
        for (what, name, values, named) in right {
            assert_eq!(misuse_of(what, name, &values, &named), "", "{name}");
        }
    }
}
