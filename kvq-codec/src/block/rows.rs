//! Where the packed rows of consecutive tokens lie: units scattered over the storage, rows together in each.

use super::{Layout, MAX_PLANES, Run};
use crate::bytes::{get_u32, slice};
use crate::pack::plane_row_bytes;

/// One plane of a block: where its rows lie within the units that hold them. Eight bytes, for attention makes and hands
/// on several for each stretch of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlanePlace {
    /// Where the block's rows begin within a unit.
    pub offset: u32,
    /// Bytes of a row.
    pub row_bytes: u16,
    /// Place of the plane's first unit in the list of ids.
    pub first_unit: u8,
    /// `log2` of the tokens whose rows lie in one unit.
    pub tokens_log2: u8,
}

impl PlanePlace {
    /// Where the rows from token `first` on begin within their unit.
    #[inline(always)]
    const fn row_offset(&self, first: usize) -> usize {
        let within = first & ((1 << self.tokens_log2) - 1);
        self.offset as usize + within * self.row_bytes as usize
    }

    /// The bytes of `n` rows.
    #[inline(always)]
    const fn bytes(&self, n: usize) -> usize {
        n * self.row_bytes as usize
    }
}

/// The planes of one block in one layout. What there is to compute is computed once, for attention goes over many
/// stretches of tokens in the same layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    places: [PlanePlace; MAX_PLANES],
    n: u8,
    /// Tokens whose rows are neighbours in every plane.
    run_len: u16,
}

impl Planes {
    /// The first `n` of `places`.
    #[inline]
    pub fn new(places: [PlanePlace; MAX_PLANES], n: usize) -> Self {
        let run_log2 = places.iter().take(n).map(|p| p.tokens_log2).min().unwrap_or(0);
        Self { places, n: n as u8, run_len: 1 << run_log2.min(15) }
    }
}

/// The rows of `n` consecutive tokens of one block, in every plane of its layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The storage units.
    units: &'a [u8],
    unit_bytes: usize,
    /// Ids of the units, four bytes each; where there are none, the rows are at the start of `units`.
    ids: &'a [u8],
    planes: Planes,
    /// Tokens.
    pub n: usize,
}

impl<'a> Rows<'a> {
    /// Rows in units; `planes` are those of the layout.
    #[inline]
    pub const fn in_units(
        units: &'a [u8],
        unit_bytes: usize,
        ids: &'a [u8],
        planes: Planes,
        n: usize,
    ) -> Self {
        Self { units, unit_bytes, ids, planes, n }
    }

    /// `n` rows of a layout of one plane, one behind the other.
    #[inline]
    pub fn one_plane(rows: &'a [u8], layout: Layout, n_values: usize, n: usize) -> Self {
        let width = layout.planes().first().copied().unwrap_or(8);
        let place = PlanePlace {
            offset: 0,
            row_bytes: plane_row_bytes(width, n_values) as u16,
            first_unit: 0,
            tokens_log2: (usize::BITS - 1) as u8,
        };
        let run_len = n.clamp(1, u16::MAX.into()) as u16;
        let planes = Planes { places: [place; MAX_PLANES], n: 1, run_len };
        Self { units: rows, unit_bytes: 0, ids: &[], planes, n }
    }

    /// Whether every run but the last has a multiple of `tokens` rows.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub const fn has_runs_of(&self, tokens: usize) -> bool {
        let run_len = self.planes.run_len as usize;
        run_len >= self.n || run_len.is_multiple_of(tokens)
    }

    /// The neighbouring rows from token `first` on, which is 0 or where an earlier run ended.
    #[inline(always)]
    pub fn run(&self, first: usize) -> Run<'a> {
        self.run_of(first, self.planes.n.into())
    }

    /// As [`run`](Self::run), with the first `n_planes` planes: for callers that know how many there are when they are
    /// compiled.
    #[inline(always)]
    pub fn run_of(&self, first: usize, n_planes: usize) -> Run<'a> {
        let n = self.n.saturating_sub(first).min(self.planes.run_len.into());
        let mut run = Run { planes: [&[]; MAX_PLANES], n };
        for (rows, place) in run.planes.iter_mut().zip(&self.planes.places).take(n_planes) {
            let at = self.unit(place, first).wrapping_add(place.row_offset(first));
            *rows = slice(self.units, at, place.bytes(n));
        }
        run
    }

    /// Where the unit with the row of token `first` begins.
    #[inline(always)]
    fn unit(&self, place: &PlanePlace, first: usize) -> usize {
        let id = get_u32(self.ids, 4 * (place.first_unit as usize + (first >> place.tokens_log2)));
        (id as usize).wrapping_mul(self.unit_bytes)
    }

    /// Calls `f` with the bytes of the rows, unit by unit; never where they lie one behind the other, without units.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn for_each_unit(&self, mut f: impl FnMut(&'a [u8])) {
        for place in self.planes.places.iter().take(self.planes.n.into()) {
            let ids = self.ids.get(4 * place.first_unit as usize..).unwrap_or(&[]).as_chunks::<4>().0;
            let mut left = self.n;
            for id in ids {
                if left == 0 {
                    break;
                }
                let n = left.min(1 << place.tokens_log2);
                let unit = (u32::from_le_bytes(*id) as usize).wrapping_mul(self.unit_bytes);
                f(slice(self.units, unit.wrapping_add(place.offset as usize), place.bytes(n)));
                left -= n;
            }
        }
    }

    /// The row of token `t` as a run of its own.
    pub fn row(&self, t: usize) -> Run<'a> {
        Self { planes: Planes { run_len: 1, ..self.planes }, n: t + 1, ..*self }.run(t)
    }
}
