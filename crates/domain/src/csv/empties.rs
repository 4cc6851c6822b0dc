//! Rows without a value that may be a file's end: spreadsheets write them below the last row that is used.

/// Runs of them that are kept apart. More have no place in any file that a program wrote.
const MOST_RUNS: usize = 1000;

/// Rows that may yet turn out to be rows as others are. Further ones are an error then.
const MOST_ROWS: u64 = 10_000;

/// The lines of such rows, run by run.
#[derive(Debug, Default)]
pub(super) struct EmptyRows {
    /// The first line of each, and how many follow each other.
    runs: Vec<(u64, u64)>,
    rows: u64,
}

impl EmptyRows {
    /// One more, in that line.
    pub fn note(&mut self, line: u64) {
        self.rows += 1;
        if let Some((first, count)) = self.runs.last_mut()
            && *first + *count == line
        {
            *count += 1;
        } else if self.runs.len() < MOST_RUNS {
            self.runs.push((line, 1));
        } else {
            self.rows = self.rows.max(MOST_ROWS + 1);
        }
    }

    /// The line of the first.
    pub fn first(&self) -> Option<u64> {
        self.runs.first().map(|(first, _)| *first)
    }

    /// The first line, when they are more than any table has between two of its rows.
    pub fn too_many(&self) -> Option<u64> {
        self.first().filter(|_| self.rows > MOST_ROWS)
    }

    /// Their lines, unless they are too many.
    pub fn lines(&self) -> impl Iterator<Item = u64> {
        let runs = if self.rows > MOST_ROWS { &[] } else { self.runs.as_slice() };
        runs.iter().flat_map(|(first, count)| *first..*first + *count)
    }
}
