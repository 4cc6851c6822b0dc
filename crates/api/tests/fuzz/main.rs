//! Drives each parser that meets strangers with mutations of a small corpus, on the stable toolchain: for some seconds each,
//! `PENSTOCK_TEST_FUZZ_SECONDS` for longer, `PENSTOCK_TEST_FUZZ_INPUTS` for that many inputs, `PENSTOCK_TEST_FUZZ_SEED` for others
//! than always the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use targets::TARGETS;

/// Bytes of an input at most.
const LONGEST: usize = 4096;

/// What one input may take, and what all of them together may add to the process's memory: what a worker has for a workbook.
const LONGEST_RUN: Duration = Duration::from_secs(1);
const MOST_MEMORY_KIB: u64 = 64 * 1024;

/// Bytes that parsers look for.
const WORDS: [&[u8]; 16] = [
    b"\"",
    b"\"\"",
    b"\r\n",
    b"\n",
    b",",
    b";",
    b"=",
    b"--x",
    b"--x--",
    b"\r\n\r\n",
    b"{{",
    b"}}",
    b"%",
    b"\0",
    b"9",
    b"\xC3",
];

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("it is below a size")
    }
}

/// One change of an input.
fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(16) + 1);
    match random.below(7) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
        2 => drop(input.drain(at..end)),
        3 => {
            let copied = input[at..end].to_vec();
            for _ in 0..=random.below(4) {
                input.splice(at..at, copied.iter().copied());
            }
        }
        4 => drop(input.splice(at..end, other[random.below(other.len() + 1)..].iter().copied())),
        _ => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
    }
    input.truncate(LONGEST);
}

/// The most memory that the process has had so far, in KiB; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().expect("a number"))
}

fn drive(name: &str) {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seconds = variable("PENSTOCK_TEST_FUZZ_SECONDS").unwrap_or(7);
    let (_, run, corpus) = TARGETS.into_iter().find(|(known, ..)| *known == name).expect("a target");
    let mut random = Random(variable("PENSTOCK_TEST_FUZZ_SEED").unwrap_or(1));
    // What was mutated is mutated again, some of it.
    let mut pool: Vec<Vec<u8>> = corpus.iter().map(|input| input.to_vec()).collect();
    let began = Instant::now();
    let mut inputs = 0_u64;
    for input in corpus {
        run(input);
    }
    let wanted: Option<u64> = variable("PENSTOCK_TEST_FUZZ_INPUTS");
    let ended = |inputs| wanted.map_or(began.elapsed() >= Duration::from_secs(seconds), |all| inputs >= all);
    let memory = peak_memory();
    let mut slowest = Duration::ZERO;
    while !ended(inputs) {
        let mut input = pool[random.below(pool.len())].clone();
        for _ in 0..=random.below(6) {
            let other = random.below(pool.len());
            mutate(&mut random, &mut input, &pool[other]);
        }
        inputs += 1;
        let (mut panicked, mut took) = (false, Duration::MAX);
        // A machine with other work may stop the test in the middle: what was slow is run again.
        for _ in 0..3 {
            let started = Instant::now();
            panicked |= catch_unwind(AssertUnwindSafe(|| run(&input))).is_err();
            took = took.min(started.elapsed());
            if took <= LONGEST_RUN {
                break;
            }
        }
        slowest = slowest.max(took);
        if panicked || slowest > LONGEST_RUN {
            panic!("{name}: input {inputs} ({slowest:?}): {:?}: {input:?}", String::from_utf8_lossy(&input));
        }
        match pool.len() {
            0..256 => pool.push(input),
            // The first ones stay what they are.
            full if random.below(16) == 0 => {
                let place = corpus.len() + random.below(full - corpus.len());
                pool[place] = input;
            }
            _ => {}
        }
    }
    let added = peak_memory() - memory;
    eprintln!("{name}: {inputs} inputs, the slowest {slowest:?}, {added} KiB more memory at the peak");
    assert!(added < MOST_MEMORY_KIB, "{name}: {added} KiB");
    assert!(inputs > 100, "{name}: {inputs} inputs are too few");
}

macro_rules! fuzzed {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                drive(stringify!($name));
            }
        )+

        #[test]
        fn every_target_is_driven() {
            let driven = [$(stringify!($name)),+];
            assert_eq!(TARGETS.map(|(name, ..)| name), driven);
        }
    };
}

fuzzed! { csv multipart dialects encodings delimiters error_lists gzip workbook boundary waiting templates tokens range cursors }
