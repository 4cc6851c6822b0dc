//! `cargo fuzz run error_lists`, on the nightly toolchain: the function that `crates/api/tests/fuzz` drives too.
#![no_main]
#![allow(dead_code, reason = "the other targets")]

#[path = "../../crates/api/tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::error_lists(bytes));
