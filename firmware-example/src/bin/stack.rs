//! Stack that each entry of the codec takes, on a painted stack, against a bound that may not be passed.
//!
//! The buffers on the stack are made for the widest head, so the depth does not depend on the shape; it does
//! depend on what an entry has to do. Every layout is therefore packed into, demoted from, attended,
//! written to a snapshot, restored and forked.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{
    Backend, Budget, EdgeLayers, Error, Fixed, KvCache, KvShape, Layout, MAX_TIERS, Policy,
    SNAPSHOT_OVERHEAD_BYTES, Side, Step, Tier, WhenFull, minimum_bytes,
};
use kvq_firmware::{board, exit, stack};
use kvq_replay::Random;

/// Bytes of stack that an entry may take, on every board: a little above the deepest that was measured, so that
/// what grows is looked at before it is allowed to.
const BOUNDS: Depths = Depths {
    new: 1800,
    append: 7400,
    append_many: 7400,
    attend: 8200,
    attend_many: 8200,
    append_fixed: 7400,
    attend_fixed: 8200,
    trim: 640,
    clear: 160,
    snapshot_into: 1050,
    restore: 2500,
    fork_into: 2400,
};

const HEAD_DIM: usize = 8;
const SHAPE: KvShape = KvShape::new(1, 1, HEAD_DIM);

/// Enough to demote through every tier and to evict.
const N_TOKENS: usize = 150;

/// Tokens of the entries that take many.
const MANY: usize = 5;

/// Ladders through every layout, from the most bits to the fewest.
const POLICIES: [Policy; 3] = [
    laddered(&[Layout::Q8, Layout::S4, Layout::S3, Layout::S2]),
    laddered(&[Layout::T4, Layout::T3, Layout::T2]),
    laddered(&[Layout::Q8, Layout::T4, Layout::S3, Layout::T2]),
];

/// Room for a few spans beside the least bytes of every policy.
const BUFFER_BYTES: usize = {
    let (mut most, mut i) = (0, 0);
    while i < POLICIES.len() {
        if let Ok(bytes) = minimum_bytes(SHAPE, POLICIES[i])
            && bytes > most
        {
            most = bytes;
        }
        i += 1;
    }
    most + most / 4
};

const fn laddered(layouts: &[Layout]) -> Policy {
    let (mut tiers, mut ladder) = ([None; MAX_TIERS], [None; 6]);
    let mut i = 0;
    while i < layouts.len() {
        let layout = layouts[i];
        tiers[i] = Some(if i == 0 { Tier::first(layout) } else { Tier::under_pressure(layout) });
        if i > 0 {
            ladder[2 * i - 2] = Some(Step { side: Side::Value, to: i as u8 });
            ladder[2 * i - 1] = Some(Step { side: Side::Key, to: i as u8 });
        }
        i += 1;
    }
    Policy {
        n_sink: 2,
        recent_len: 0,
        span_len: 16,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder,
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Bytes,
        when_full: WhenFull::Evict,
        window_len: 0,
    }
}

#[entry]
fn main() -> ! {
    static mut BUFFERS: [[u8; BUFFER_BYTES]; 2] = [[0; BUFFER_BYTES]; 2];
    static mut SNAPSHOT: [u8; BUFFER_BYTES + SNAPSHOT_OVERHEAD_BYTES] =
        [0; BUFFER_BYTES + SNAPSHOT_OVERHEAD_BYTES];
    let backend = Backend::detect();
    defmt::info!("stack on {=str}, kernels {=str}, in bytes", board::NAME, backend.name());
    let mut deepest = Depths::default();
    for policy in POLICIES {
        let [one, two] = &mut *BUFFERS;
        if let Err(error) = deepest.measure(policy, backend, (one, two), &mut *SNAPSHOT) {
            defmt::error!("{}", error);
            exit::failure();
        }
    }
    let mut fine = true;
    for ((name, depth), (_, bound)) in deepest.table().into_iter().zip(BOUNDS.table()) {
        defmt::info!("{=str}: ~{=usize}, at most {=usize}", name, depth, bound);
        fine &= depth <= bound;
    }
    if fine { exit::success() } else { exit::failure() }
}

/// The most stack that each entry took, in bytes.
#[derive(Clone, Copy, Default)]
struct Depths {
    new: usize,
    /// One token, be it that a span is packed, demoted or evicted for it.
    append: usize,
    append_many: usize,
    attend: usize,
    attend_many: usize,
    append_fixed: usize,
    attend_fixed: usize,
    trim: usize,
    clear: usize,
    snapshot_into: usize,
    restore: usize,
    fork_into: usize,
}

/// Runs `body` on a painted stack and raises `depth` to what it took.
fn deepen<T>(depth: &mut usize, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let mut outcome = None;
    *depth = (*depth).max(stack::used_bytes(|| outcome = Some(body())));
    outcome.unwrap_or_else(|| exit::failure())
}

impl Depths {
    fn table(&self) -> [(&'static str, usize); 12] {
        [
            ("new", self.new),
            ("append, one token", self.append),
            ("append, many", self.append_many),
            ("attend, one token", self.attend),
            ("attend, many", self.attend_many),
            ("append_fixed", self.append_fixed),
            ("attend_fixed", self.attend_fixed),
            ("trim", self.trim),
            ("clear", self.clear),
            ("snapshot_into", self.snapshot_into),
            ("restore", self.restore),
            ("fork_into", self.fork_into),
        ]
    }

    fn measure(
        &mut self,
        policy: Policy,
        backend: Backend,
        (one, two): (&mut [u8], &mut [u8]),
        snapshot: &mut [u8],
    ) -> Result<(), Error> {
        let mut cache = deepen(&mut self.new, || KvCache::new(SHAPE, policy, backend, one))?;
        let mut other = KvCache::new(SHAPE, policy, backend, two)?;
        let mut random = Random::new(7);
        let (mut key, mut value, mut out) = ([0.0f32; HEAD_DIM], [0.0f32; HEAD_DIM], [0.0f32; HEAD_DIM]);
        let (mut many, mut many_out) = ([0.0f32; MANY * HEAD_DIM], [0.0f32; MANY * HEAD_DIM]);
        many.fill_with(|| random.exact() - 2.0);
        let many_fixed = many.map(|x| (x * 64.0) as i16);
        for token in 1..=N_TOKENS {
            key.fill_with(|| random.exact() - 2.0);
            value.fill_with(|| random.exact() - 4.0);
            deepen(&mut self.append, || cache.append(0, 1, &key, &value))?;
            deepen(&mut self.attend, || cache.attend(0, 1, &key, &mut out))?;
            if token % 10 == 0 {
                let n = deepen(&mut self.snapshot_into, || cache.snapshot_into(snapshot))?;
                deepen(&mut self.restore, || other.restore(snapshot.get(..n).unwrap_or(&[])))?;
                deepen(&mut self.fork_into, || cache.fork_into(&mut other))?;
                let mut fixed_out = [0i32; MANY * HEAD_DIM];
                let fixed = Fixed::new(&many_fixed[..], 6);
                for _ in 0..4 {
                    deepen(&mut self.append_fixed, || other.append_fixed(0, MANY, fixed, fixed))?;
                    deepen(&mut self.attend_fixed, || other.attend_fixed(0, MANY, fixed, &mut fixed_out, 6))?;
                    deepen(&mut self.append_many, || other.append(0, MANY, &many, &many))?;
                    deepen(&mut self.attend_many, || other.attend(0, MANY, &many, &mut many_out))?;
                }
            }
        }
        deepen(&mut self.trim, || cache.trim(N_TOKENS - 20))?;
        deepen(&mut self.trim, || cache.trim(1))?;
        deepen(&mut self.clear, || {
            cache.clear();
            Ok(())
        })
    }
}
