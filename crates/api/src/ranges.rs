//! Ranges of bytes (RFC 9110, section 14): which one is wanted, and that part of a stream.

use actix_web::http::header::{self, HeaderMap};
use bytes::{Buf as _, Bytes};
use futures::{Stream, TryStreamExt as _};

use crate::problem::Problem;

/// One range of bytes that was asked for: from here on, or so many of the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// From a byte on, to another one or to the end.
    From {
        /// The first byte.
        first: u64,
        /// The last one.
        last: Option<u64>,
    },
    /// The last ones.
    Last(u64),
}

impl Wanted {
    /// None: the whole is to be sent. That is so for several ranges too, which nobody has to honour.
    pub fn of(headers: &HeaderMap, opaque: &str) -> Option<Self> {
        if let Some(if_range) = headers.get(header::IF_RANGE) {
            // Only a strong match says that the part fits the parts before it.
            if if_range.to_str().ok()? != format!("\"{opaque}\"") {
                return None;
            }
        }
        Self::parse(headers.get(header::RANGE)?.to_str().ok()?)
    }

    /// Reads the header's value; none when it is not one range of bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
        if first.is_empty() {
            return number(last).map(Self::Last);
        }
        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        if last.is_some_and(|last| last < first) { None } else { Some(Self::From { first, last }) }
    }

    /// The first and the last byte, of so many; none when there is nothing there.
    pub fn within(self, length: u64) -> Option<(u64, u64)> {
        let end = length.checked_sub(1)?;
        match self {
            Self::From { first, .. } if first > end => None,
            Self::From { first, last } => Some((first, last.map_or(end, |last| last.min(end)))),
            Self::Last(0) => None,
            Self::Last(bytes) => Some((length.saturating_sub(bytes), end)),
        }
    }
}

/// Digits, without a sign; what is beyond every file is beyond this one.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// So many bytes of a stream, from one of them on.
pub fn cut(
    body: impl Stream<Item = Result<Bytes, Problem>>,
    mut skip: u64,
    mut left: u64,
) -> impl Stream<Item = Result<Bytes, Problem>> {
    async_stream::try_stream! {
        let mut body = std::pin::pin!(body);
        while left > 0 {
            let Some(mut part) = body.try_next().await? else { break };
            let passed = skip.min(part.len() as u64);
            skip -= passed;
            part.advance(usize::try_from(passed).unwrap_or(usize::MAX));
            part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= part.len() as u64;
            if !part.is_empty() {
                yield part;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_kept_within_the_file() {
        for (text, length, expected) in [
            ("bytes=0-9", 100, Some((0, 9))),
            ("bytes=90-", 100, Some((90, 99))),
            ("bytes=90-200", 100, Some((90, 99))),
            ("bytes=0-99999999999999999999999", 100, Some((0, 99))),
            ("bytes=-5", 100, Some((95, 99))),
            ("bytes=-500", 100, Some((0, 99))),
            ("bytes=-99999999999999999999999", 100, Some((0, 99))),
            ("bytes=100-", 100, None),
            ("bytes=99999999999999999999999-", 100, None),
            ("bytes=-0", 100, None),
            ("bytes=0-", 0, None),
        ] {
            assert_eq!(Wanted::parse(text).unwrap().within(length), expected, "{text}");
        }
        for text in [
            "bytes=5-2",
            "bytes=0-1,4-5",
            "lines=0-1",
            "bytes=",
            "bytes=a-b",
            "bytes=-",
            "bytes=+1-5",
            "bytes=--5",
        ] {
            assert_eq!(Wanted::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_part_of_a_stream_is_the_part_of_its_bytes() {
        let whole: Vec<u8> = (0..100).collect();
        for (first, last) in [(0, 99), (0, 0), (99, 99), (10, 20), (9, 10), (33, 66)] {
            let parts: Vec<Result<Bytes, Problem>> =
                whole.chunks(10).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let part: Vec<Bytes> =
                cut(futures::stream::iter(parts), first, last + 1 - first).try_collect().await.unwrap();
            assert_eq!(part.concat(), whole[first as usize..=last as usize]);
        }
    }
}
