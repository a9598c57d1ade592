//! Lines of a file of any size, in bounded memory.

use std::{io, mem};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Longest line taken: a body of 1 MiB with every byte escaped (`\u00ff`), and room for the rest.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One line of the input that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NumberedLine {
    /// From 1, blank lines included.
    pub(super) number: u64,
    /// Without its line feed; `None` if it is longer than a line may be.
    pub(super) text: Option<Vec<u8>>,
    /// How much of the input it took.
    pub(super) bytes: u64,
}

/// Reads lines. What is longer than a line may be is passed over, not kept.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    limit: usize,
    number: u64,
    text: Vec<u8>,
    bytes: u64,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, limit: LINE_BYTES_MAX, number: 0, text: Vec::new(), bytes: 0 }
    }

    /// The next line that is not blank; `None` at the end of the input. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<NumberedLine>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                if self.bytes == 0 {
                    return Ok(None);
                }
                // The last line may lack its line feed.
                match self.take() {
                    Some(line) => return Ok(Some(line)),
                    None => continue,
                }
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            // One byte above the limit is kept, as a sign of it.
            let room = (self.limit + 1).saturating_sub(self.text.len());
            self.text.extend_from_slice(&part[..part.len().min(room)]);
            let used = end.map_or(chunk.len(), |at| at + 1);
            self.bytes += used as u64;
            self.reader.consume(used);
            if end.is_some()
                && let Some(line) = self.take()
            {
                return Ok(Some(line));
            }
        }
    }

    /// The line gathered so far, unless it is blank.
    fn take(&mut self) -> Option<NumberedLine> {
        self.number += 1;
        let bytes = mem::take(&mut self.bytes);
        let text = mem::take(&mut self.text);
        if text.trim_ascii().is_empty() && text.len() <= self.limit {
            return None;
        }
        let text = (text.len() <= self.limit).then_some(text);
        Some(NumberedLine { number: self.number, text, bytes })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    /// Reads with a buffer so small that every line spans several, and lines of at most five bytes.
    async fn read(input: &str) -> Vec<(u64, Option<String>, u64)> {
        let mut lines = Lines { limit: 5, ..Lines::new(BufReader::with_capacity(3, input.as_bytes())) };
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push((line.number, line.text.map(|text| String::from_utf8(text).unwrap()), line.bytes));
        }
        all
    }

    #[tokio::test]
    async fn lines_are_numbered_and_bounded() {
        let some = |text: &str| Some(text.to_owned());
        for (input, expected) in [
            ("", vec![]),
            ("\n\n", vec![]),
            ("a", vec![(1, some("a"), 1)]),
            ("a\n", vec![(1, some("a"), 2)]),
            ("12345\n\n  \nb", vec![(1, some("12345"), 6), (4, some("b"), 1)]),
            ("123456\nb\n", vec![(1, None, 7), (2, some("b"), 2)]),
            ("a\n123456789012345", vec![(1, some("a"), 2), (2, None, 15)]),
            ("a\r\nb", vec![(1, some("a\r"), 3), (2, some("b"), 1)]),
            ("        \nb", vec![(1, None, 9), (2, some("b"), 1)]),
        ] {
            assert_eq!(read(input).await, expected, "{input:?}");
        }
    }
}
