//! What a cache costs: bytes of RAM and flash, instructions per value.
//!
//! Numbers behind a `~` depend on the compiler; they repeat exactly with the same binary.
#![no_std]
#![no_main]

use core::hint::black_box;

use cortex_m::Peripherals;
use cortex_m_rt::entry;
use kvq_codec::block::dequantize_into;
use kvq_codec::{
    Backend, Budget, EdgeLayers, Error, Fixed, KvCache, KvShape, Layout, MAX_TIERS, Policy, Rotation, Tier,
    WhenFull, capacity_tokens, minimum_bytes,
};
use kvq_firmware::counter::Counter;
use kvq_firmware::{board, exit, flash};
use kvq_replay::Random;

/// Head widths whose difference separates the cost of keys from that of values.
const NARROW: usize = if board::RAM_BYTES < 64 * 1024 { 32 } else { 64 };
const WIDE: usize = 2 * NARROW;

const SPAN_LEN: usize = 16;

/// Two lengths with equal recent windows: attention differs by that of [`MORE_TOKENS`] packed tokens.
const SHORT: usize = SPAN_LEN + 8;
const MORE_TOKENS: usize = SPAN_LEN;

/// Enough for [`SHORT`] and [`MORE_TOKENS`] at 8 bits.
const BUFFER_BYTES: usize = {
    let shape = KvShape::new(1, 1, NARROW).with_value_head_dim(WIDE);
    let mut bytes = 1024;
    while !matches!(capacity_tokens(shape, uniform(Layout::Q8), bytes), Ok(n) if n >= SHORT + MORE_TOKENS) {
        bytes += 64;
    }
    bytes
};

/// Everything behind the recent window in one layout.
const fn uniform(layout: Layout) -> Policy {
    let mut tiers = [None; MAX_TIERS];
    tiers[0] = Some(Tier::first(layout));
    Policy {
        n_sink: 0,
        recent_len: 0,
        span_len: SPAN_LEN as u16,
        key_tiers: tiers,
        value_tiers: tiers,
        ladder: [None; 6],
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Bytes,
        when_full: WhenFull::Error,
        window_len: 0,
    }
}

#[entry]
fn main() -> ! {
    static mut BUFFER: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];
    let Some(core) = Peripherals::take() else { exit::failure() };
    let mut counter = Counter::new(core.SYST);
    let backend = Backend::detect();
    defmt::info!("footprint on {=str}, kernels {=str}", board::NAME, backend.name());
    defmt::info!("this program: flash ~{=usize} bytes of {=usize}", flash::bytes(), board::FLASH_BYTES);
    log_formulas();
    let outcome = Bench { backend, buffer: BUFFER, counter: &mut counter }.run();
    match outcome {
        Ok(()) => exit::success(),
        Err(error) => {
            defmt::error!("{}", error);
            exit::failure()
        }
    }
}

/// RAM of a cache, before it is built: all of it is known at compile time.
fn log_formulas() {
    for (name, shape) in [
        ("1 layer, 1 head of 32", KvShape::new(1, 1, 32)),
        ("3 layers, 4 heads of 32", KvShape::new(3, 4, 32)),
        ("5 layers, 4 heads of 8", KvShape::new(5, 4, 8)),
        ("30 layers, 3 heads of 64", KvShape::new(30, 3, 64)),
    ] {
        for (policy_name, policy) in [
            ("8bit", Policy::EIGHT_BIT),
            ("4x, spans of 64", Policy::FOUR_X.with_byte_budget(WhenFull::Evict)),
            (
                "4x, spans of 16",
                Policy { span_len: 16, recent_len: 16, ..Policy::FOUR_X.with_byte_budget(WhenFull::Evict) },
            ),
        ] {
            let (Ok(least), Ok(tokens)) = (
                minimum_bytes(shape, policy),
                minimum_bytes(shape, policy).and_then(|b| capacity_tokens(shape, policy, 4 * b)),
            ) else {
                defmt::error!("{=str}, {=str}: refused", name, policy_name);
                exit::failure()
            };
            defmt::info!(
                "{=str}, {=str}: at least {=usize} bytes; {=usize} bytes hold {=usize} tokens, which fp16 holds in {=usize}",
                name,
                policy_name,
                least,
                4 * least,
                tokens,
                tokens * shape.fp16_bytes_per_token()
            );
        }
    }
}

/// Fraction bits of the fixed-point numbers: those of [`Random::exact`].
const FRACTION_BITS: i8 = 6;

/// What keys, values and queries are, and what the codec does with them.
#[derive(Clone, Copy)]
enum Arithmetic {
    Floats,
    Integers,
}

/// Instructions of attention over a cache, and of the calls that filled it.
#[derive(Clone, Copy, Default)]
struct Costs {
    /// Attention at [`SHORT`] tokens.
    attend: u32,
    /// What [`MORE_TOKENS`] more add to it.
    attend_more: u32,
    /// Append of one token, no packing.
    append: u32,
    /// Append that also packs a span.
    append_packing: u32,
}

struct Bench<'a> {
    backend: Backend,
    buffer: &'a mut [u8; BUFFER_BYTES],
    counter: &'a mut Counter,
}

impl Bench<'_> {
    fn run(&mut self) -> Result<(), Error> {
        self.log_rotation();
        for layout in Layout::ALL {
            self.log_costs(layout)?;
            self.log_dequantize(layout)?;
        }
        for layout in [Layout::Q8, Layout::S4, Layout::T4] {
            self.log_integers(layout)?;
        }
        Ok(())
    }

    /// The same calls in integers alone, per value, and how many times as many instructions floats take.
    fn log_integers(&mut self, layout: Layout) -> Result<(), Error> {
        let floats = self.costs(layout, NARROW, NARROW, Arithmetic::Floats)?;
        let integers = self.costs(layout, NARROW, NARROW, Arithmetic::Integers)?;
        let append = |costs: Costs| hundredths(costs.append, 2 * NARROW);
        // What packs a span is done once in so many tokens, all of which it packs.
        let encode = |costs: Costs| {
            let pack = costs.append_packing.saturating_sub(costs.append);
            append(costs) + hundredths(pack, SPAN_LEN * 2 * NARROW)
        };
        let attend = |costs: Costs| hundredths(costs.attend_more, MORE_TOKENS * NARROW);
        let both =
            |cost: &dyn Fn(Costs) -> u32| (cost(integers), hundredths(cost(floats), cost(integers) as usize));
        let (append, append_ratio) = both(&append);
        let (encode, encode_ratio) = both(&encode);
        let (attend, attend_ratio) = both(&attend);
        defmt::info!(
            "{=str} in integers: instructions per value: append ~{=u32}.{=u32:02}, in floats ~{=u32}.{=u32:02} times as many",
            layout.name(),
            append / 100,
            append % 100,
            append_ratio / 100,
            append_ratio % 100
        );
        defmt::info!(
            "{=str} in integers: instructions per value: append and packing ~{=u32}.{=u32:02}, in floats ~{=u32}.{=u32:02} times as many",
            layout.name(),
            encode / 100,
            encode % 100,
            encode_ratio / 100,
            encode_ratio % 100
        );
        defmt::info!(
            "{=str} in integers: instructions per value: score, accumulate and softmax ~{=u32}.{=u32:02} per pair, in floats ~{=u32}.{=u32:02} times as many",
            layout.name(),
            attend / 100,
            attend % 100,
            attend_ratio / 100,
            attend_ratio % 100
        );
        Ok(())
    }

    fn log_rotation(&mut self) {
        let mut x = [0.0f32; NARROW];
        let mut random = Random::new(1);
        x.fill_with(|| random.exact() - 4.0);
        let rotation = Rotation::new(NARROW);
        let n = self.counter.instructions(|| rotation.forward(&mut x));
        // What is rotated must be used, or it would not be computed.
        let spread = x.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
        if spread == 0.0 {
            exit::failure();
        }
        defmt::info!(
            "rotation of {=usize} values: ~{=u32}.{=u32:02} instructions per value",
            NARROW,
            hundredths(n, NARROW) / 100,
            hundredths(n, NARROW) % 100
        );
    }

    /// Packed codes of one block to floats.
    fn log_dequantize(&mut self, layout: Layout) -> Result<(), Error> {
        let mut random = Random::new(3);
        let mut codes = [0u8; WIDE];
        // Codes of 8 bits are never -128.
        codes.fill_with(|| (random.next() as u8).max(1) ^ 0x80);
        let codes = codes.get(..layout.row_bytes(WIDE)).unwrap_or(&[]);
        let (mut out, mut outcome) = ([0.0f32; WIDE], Ok(()));
        let n =
            self.counter.instructions(|| outcome = dequantize_into(layout, black_box(codes), 8, &mut out));
        outcome?;
        // What is dequantized must be used, or it would not be computed.
        if black_box(out).iter().all(|&v| v == 0.0) {
            exit::failure();
        }
        let n = hundredths(n, WIDE);
        defmt::info!(
            "{=str}: instructions per value: dequantize ~{=u32}.{=u32:02}",
            layout.name(),
            n / 100,
            n % 100
        );
        Ok(())
    }

    /// Costs per value of one layout; keys and values are told apart by making one of them wider.
    fn log_costs(&mut self, layout: Layout) -> Result<(), Error> {
        let base = self.costs(layout, NARROW, NARROW, Arithmetic::Floats)?;
        let keys = self.costs(layout, WIDE, NARROW, Arithmetic::Floats)?;
        let values = self.costs(layout, NARROW, WIDE, Arithmetic::Floats)?;
        let extra = MORE_TOKENS * (WIDE - NARROW);
        let score = hundredths(keys.attend_more.saturating_sub(base.attend_more), extra);
        let sum = hundredths(values.attend_more.saturating_sub(base.attend_more), extra);
        let whole = hundredths(base.attend_more, MORE_TOKENS * NARROW);
        let append = hundredths(base.append, 2 * NARROW);
        let packed = SPAN_LEN * (WIDE - NARROW);
        let pack = |wide: Costs| {
            let of = |costs: Costs| costs.append_packing.saturating_sub(costs.append);
            hundredths(of(wide).saturating_sub(of(base)), packed)
        };
        let (pack_key, pack_value) = (pack(keys), pack(values));
        defmt::info!(
            "{=str}: instructions per value: score ~{=u32}.{=u32:02}, accumulate ~{=u32}.{=u32:02}, both with the softmax ~{=u32}.{=u32:02} per pair",
            layout.name(),
            score / 100,
            score % 100,
            sum / 100,
            sum % 100,
            whole / 100,
            whole % 100
        );
        defmt::info!(
            "{=str}: instructions per value: append ~{=u32}.{=u32:02}, packing of keys ~{=u32}.{=u32:02}, of values ~{=u32}.{=u32:02}",
            layout.name(),
            append / 100,
            append % 100,
            pack_key / 100,
            pack_key % 100,
            pack_value / 100,
            pack_value % 100
        );
        Ok(())
    }

    fn costs(
        &mut self,
        layout: Layout,
        key_dim: usize,
        value_dim: usize,
        arithmetic: Arithmetic,
    ) -> Result<Costs, Error> {
        let shape = KvShape::new(1, 1, key_dim).with_value_head_dim(value_dim);
        self.buffer.fill(0);
        let mut cache = KvCache::new(shape, uniform(layout), self.backend, &mut self.buffer[..])?;
        let mut random = Random::new(7);
        let (mut key, mut value, mut query) = (Vector::ZERO, Vector::ZERO, Vector::ZERO);
        query.fill_with(|| 0.5);
        let (mut out, mut fixed_out) = ([0.0f32; WIDE], [0i32; WIDE]);
        let mut costs = Costs::default();
        for token in 0..SHORT + MORE_TOKENS {
            key.fill_with(|| random.exact() - 2.0);
            value.fill_with(|| random.exact() - 4.0);
            let packs = !cache.is_empty() && cache.len().is_multiple_of(SPAN_LEN);
            let mut outcome = Ok(());
            let n = self.counter.instructions(|| {
                outcome = match arithmetic {
                    Arithmetic::Floats => {
                        cache.append(0, 1, &key.floats[..key_dim], &value.floats[..value_dim])
                    }
                    Arithmetic::Integers => {
                        cache.append_fixed(0, 1, key.fixed(key_dim), value.fixed(value_dim))
                    }
                }
            });
            outcome?;
            *(if packs { &mut costs.append_packing } else { &mut costs.append }) = n;
            let len = token + 1;
            if len == SHORT || len == SHORT + MORE_TOKENS {
                let n = self.counter.instructions(|| {
                    outcome = match arithmetic {
                        Arithmetic::Floats => {
                            cache.attend(0, 1, &query.floats[..key_dim], &mut out[..value_dim])
                        }
                        Arithmetic::Integers => {
                            let out = &mut fixed_out[..value_dim];
                            cache.attend_fixed(0, 1, query.fixed(key_dim), out, FRACTION_BITS)
                        }
                    }
                });
                outcome?;
                if len == SHORT {
                    costs.attend = n;
                } else {
                    costs.attend_more = n.saturating_sub(costs.attend);
                }
            }
        }
        Ok(costs)
    }
}

/// The same numbers as floats and in fixed point.
struct Vector {
    floats: [f32; WIDE],
    fixed: [i16; WIDE],
}

impl Vector {
    const ZERO: Self = Self { floats: [0.0; WIDE], fixed: [0; WIDE] };

    fn fill_with(&mut self, number: impl FnMut() -> f32) {
        self.floats.fill_with(number);
        for (fixed, float) in self.fixed.iter_mut().zip(self.floats) {
            *fixed = (float * f32::from(1i16 << FRACTION_BITS)) as i16;
        }
    }

    fn fixed(&self, n: usize) -> Fixed<'_, i16> {
        Fixed::new(&self.fixed[..n], FRACTION_BITS)
    }
}

/// Hundredths of an instruction per value.
const fn hundredths(instructions: u32, values: usize) -> u32 {
    (instructions as u64 * 100 / values as u64) as u32
}
