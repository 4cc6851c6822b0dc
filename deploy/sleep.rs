//! Waits for so many seconds and ends: the API's preStop hook, in an image that has no shell.

fn main() {
    let seconds = std::env::args().nth(1).and_then(|seconds| seconds.parse().ok());
    std::thread::sleep(std::time::Duration::from_secs(seconds.unwrap_or(5)));
}
