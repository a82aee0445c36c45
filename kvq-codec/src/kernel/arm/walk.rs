//! The rows of a layout of one plane, one by one.

use crate::block::Rows;

/// Hands out rows; how many there are, the caller knows.
pub(super) struct Walk<'a> {
    rows: Rows<'a>,
    row_bytes: usize,
    /// The rest of a run, and the first token behind it.
    run: &'a [u8],
    next: usize,
}

impl<'a> Walk<'a> {
    pub fn new(rows: &Rows<'a>, row_bytes: usize) -> Self {
        Self { rows: *rows, row_bytes, run: &[], next: 0 }
    }

    /// The next row.
    #[cfg_attr(kvq_small, inline(never))]
    #[cfg_attr(not(kvq_small), inline(always))]
    pub fn row(&mut self) -> &'a [u8] {
        if self.run.is_empty() {
            self.next_run();
        }
        let (row, rest) = self.run.split_at_checked(self.row_bytes).unwrap_or((&[], &[]));
        self.run = rest;
        row
    }

    #[inline(never)]
    fn next_run(&mut self) {
        let run = self.rows.run(self.next);
        self.next += run.n;
        self.run = run.planes[0];
    }
}
