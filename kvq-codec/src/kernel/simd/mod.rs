//! What the backends with wide registers share: the scratch between their kernels, and the choice of head
//! sizes and layouts that they are compiled for.

mod levels;

pub(crate) use levels::Levels;

use super::HeadRow;
use crate::block::Rows;

/// Whether hand-written kernels serve this head, with runs of rows of a multiple of `tokens`.
pub(super) fn is_fast(head: HeadRow, rows: &Rows<'_>, tokens: usize) -> bool {
    rows.has_runs_of(tokens)
        && head.offset == 0
        && head.block_values == head.head_dim
        && matches!(head.head_dim, 32 | 64 | 128 | 192 | 256)
}

/// Calls `$function::<V, N>` for a head of `V` vectors of 32 values and `N` queries.
macro_rules! by_dim {
    ($function:ident, $head_dim:expr, $n:expr, $args:tt) => {
        match $head_dim {
            32 => by_dim!(@n $function, 1, $n, $args),
            64 => by_dim!(@n $function, 2, $n, $args),
            128 => by_dim!(@n $function, 4, $n, $args),
            192 => by_dim!(@n $function, 6, $n, $args),
            _ => by_dim!(@n $function, 8, $n, $args),
        }
    };
    (@n $function:ident, $vectors:tt, $n:expr, $args:tt) => {
        match $n {
            1 => $function::<$vectors, 1> $args,
            2 => $function::<$vectors, 2> $args,
            3 => $function::<$vectors, 3> $args,
            _ => $function::<$vectors, { $crate::kernel::TILE }> $args,
        }
    };
}
pub(super) use by_dim;

/// Calls `$function::<LAYOUT, D, V>` for a layout and a head of `D` values in `V` vectors.
macro_rules! by_layout {
    ($function:ident, $layout:expr, $head_dim:expr, $args:tt) => {
        match $layout {
            Layout::Q8 => {}
            Layout::S4 => by_layout!(@dim $function, { Layout::S4.tag() }, $head_dim, $args),
            Layout::S3 => by_layout!(@dim $function, { Layout::S3.tag() }, $head_dim, $args),
            Layout::S2 => by_layout!(@dim $function, { Layout::S2.tag() }, $head_dim, $args),
            Layout::T4 => by_layout!(@dim $function, { Layout::T4.tag() }, $head_dim, $args),
            Layout::T3 => by_layout!(@dim $function, { Layout::T3.tag() }, $head_dim, $args),
            Layout::T2 => by_layout!(@dim $function, { Layout::T2.tag() }, $head_dim, $args),
        }
    };
    (@dim $function:ident, $layout:tt, $head_dim:expr, $args:tt) => {
        match $head_dim {
            32 => $function::<$layout, 32, 1> $args,
            64 => $function::<$layout, 64, 2> $args,
            128 => $function::<$layout, 128, 4> $args,
            192 => $function::<$layout, 192, 6> $args,
            _ => $function::<$layout, 256, 8> $args,
        }
    };
}
pub(super) use by_layout;
