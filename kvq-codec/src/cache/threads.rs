//! Threads that a caller lends: what a cache encodes is then shared out over them.

/// Threads that [`Cache::append_with`](crate::Cache::append_with) may use.
///
/// # Examples
/// ```
/// use kvq_codec::{Backend, Cache, KvCache, KvShape, Policy, Threads};
///
/// /// A thread for each part. Threads that wait for work, as a thread pool's do, begin sooner.
/// struct ThreadPerPart;
///
/// impl Threads for ThreadPerPart {
///     type Parts = Vec<u8>;
///
///     fn share_out(
///         &self,
///         n_parts: usize,
///         part_bytes: usize,
///         work: &(dyn Fn(usize, &mut [u8]) + Sync),
///     ) -> Option<Vec<u8>> {
///         let mut parts = vec![0; n_parts * part_bytes];
///         std::thread::scope(|scope| {
///             for (part, bytes) in parts.chunks_exact_mut(part_bytes).enumerate() {
///                 scope.spawn(move || work(part, bytes));
///             }
///         });
///         Some(parts)
///     }
/// }
///
/// let shape = KvShape::new(1, 2, 32);
/// let (mut alone, mut shared) = ([0; 24 * 1024], [0; 24 * 1024]);
/// let mut alone = KvCache::new(shape, Policy::FOUR_X, Backend::detect(), &mut alone)?;
/// let mut shared = KvCache::new(shape, Policy::FOUR_X, Backend::detect(), &mut shared)?;
/// let rows: Vec<f32> = (0..2 * 150 * 32).map(|i| (i as f32).sin()).collect();
/// alone.append(0, 150, &rows, &rows)?;
/// shared.append_with(0, 150, &rows, &rows, &ThreadPerPart)?;
/// let mut out = [[0.0; 2 * 32]; 2];
/// alone.attend(0, 1, &rows[..64], &mut out[0])?;
/// shared.attend(0, 1, &rows[..64], &mut out[1])?;
/// assert_eq!(out[0], out[1]);
/// # Ok::<(), kvq_codec::Error>(())
/// ```
pub trait Threads {
    /// The bytes of all parts, one part behind the other.
    type Parts: AsRef<[u8]>;

    /// Calls `work(part, bytes)` once for each of `n_parts` parts, in any order and at the same time, where `bytes` are
    /// `part_bytes` of its own, of any content; returns those of all parts. Returns `None`, and calls nothing, where so
    /// little work is better done by the caller alone.
    fn share_out(
        &self,
        n_parts: usize,
        part_bytes: usize,
        work: &(dyn Fn(usize, &mut [u8]) + Sync),
    ) -> Option<Self::Parts>;
}

/// No thread but the caller's.
pub(super) struct OneThread;

impl Threads for OneThread {
    type Parts = [u8; 0];

    #[inline(always)]
    fn share_out(&self, _: usize, _: usize, _: &(dyn Fn(usize, &mut [u8]) + Sync)) -> Option<[u8; 0]> {
        None
    }
}
