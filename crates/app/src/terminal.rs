//! What a command writes for whoever started it: the standard macros panic when that is closed.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

/// What a shell reports of a program that SIGPIPE ended.
const CLOSED_PIPE: i32 = 128 + 13;

/// Writes to stdout. Who has closed it (`| head -n 1`) wants no more: the program ends, as others do.
pub fn write(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) else { return };
    drop(stdout);
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(CLOSED_PIPE);
    }
    note(format_args!("stdout cannot be written: {error}\n"));
    std::process::exit(1);
}

/// Writes to stderr. When that is closed there is nobody to tell, and the program goes on.
pub fn note(text: Arguments<'_>) {
    let _ = std::io::stderr().lock().write_fmt(text);
}
