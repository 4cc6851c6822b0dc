//! Panics in the log. A message that was put together may quote a value (`byte index 3 is not a char boundary; it is inside
//! 'é' of `Zoé``), and values are rows: only a message that stands in the source as it is gets into a log.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};

/// Logs panics from now on, in the place of the standard library's own report.
pub fn log() {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(at, reason = literal(info.payload()), backtrace, "panicked: please report it");
    }));
}

/// The message, when it is one of the source's own.
fn literal(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("not shown, because it may quote a row")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_a_value_is_not_shown() {
        let payload = |panics: fn()| std::panic::catch_unwind(panics).unwrap_err();
        assert_eq!(literal(payload(|| panic!("a defect")).as_ref()), "a defect");
        let hidden = "not shown, because it may quote a row";
        assert_eq!(literal(payload(|| panic!("{}", std::env::args().count())).as_ref()), hidden);
        let slice: fn() = || drop("Zoé"[..3].to_owned());
        assert_eq!(literal(payload(slice).as_ref()), hidden);
        let error: fn() = || {
            "Zoé".parse::<u8>().expect("a number");
        };
        assert_eq!(literal(payload(error).as_ref()), hidden);
    }
}
