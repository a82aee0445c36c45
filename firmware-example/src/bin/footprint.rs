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

/// What keys, values and queries are, and which calls take them.
trait Arithmetic {
    type Number: Copy + Default;
    type Out: Copy + Default;

    /// A multiple of 1/64.
    fn number(x: f32) -> Self::Number;
    fn append(cache: &mut KvCache<'_>, key: &[Self::Number], value: &[Self::Number]) -> Result<(), Error>;
    fn attend(cache: &KvCache<'_>, query: &[Self::Number], out: &mut [Self::Out]) -> Result<(), Error>;
}

struct Floats;

impl Arithmetic for Floats {
    type Number = f32;
    type Out = f32;

    fn number(x: f32) -> f32 {
        x
    }

    fn append(cache: &mut KvCache<'_>, key: &[f32], value: &[f32]) -> Result<(), Error> {
        cache.append(0, 1, key, value)
    }

    fn attend(cache: &KvCache<'_>, query: &[f32], out: &mut [f32]) -> Result<(), Error> {
        cache.attend(0, 1, query, out)
    }
}

struct Integers;

impl Arithmetic for Integers {
    type Number = i16;
    type Out = i32;

    fn number(x: f32) -> i16 {
        (x * f32::from(1i16 << FRACTION_BITS)) as i16
    }

    fn append(cache: &mut KvCache<'_>, key: &[i16], value: &[i16]) -> Result<(), Error> {
        cache.append_fixed(0, 1, Fixed::new(key, FRACTION_BITS), Fixed::new(value, FRACTION_BITS))
    }

    fn attend(cache: &KvCache<'_>, query: &[i16], out: &mut [i32]) -> Result<(), Error> {
        cache.attend_fixed(0, 1, Fixed::new(query, FRACTION_BITS), out, FRACTION_BITS)
    }
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
        let floats = self.costs::<Floats>(layout, NARROW, NARROW)?;
        let integers = self.costs::<Integers>(layout, NARROW, NARROW)?;
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
        let base = self.costs::<Floats>(layout, NARROW, NARROW)?;
        let keys = self.costs::<Floats>(layout, WIDE, NARROW)?;
        let values = self.costs::<Floats>(layout, NARROW, WIDE)?;
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

    /// Not inlined, for a Cortex-M0 has no room for its arrays in two frames.
    #[inline(never)]
    fn costs<A: Arithmetic>(
        &mut self,
        layout: Layout,
        key_dim: usize,
        value_dim: usize,
    ) -> Result<Costs, Error> {
        let shape = KvShape::new(1, 1, key_dim).with_value_head_dim(value_dim);
        self.buffer.fill(0);
        let mut cache = KvCache::new(shape, uniform(layout), self.backend, &mut self.buffer[..])?;
        let mut random = Random::new(7);
        let (mut key, mut value) = ([A::Number::default(); WIDE], [A::Number::default(); WIDE]);
        let (query, mut out) = ([A::number(0.5); WIDE], [A::Out::default(); WIDE]);
        let mut costs = Costs::default();
        for token in 0..SHORT + MORE_TOKENS {
            key.fill_with(|| A::number(random.exact() - 2.0));
            value.fill_with(|| A::number(random.exact() - 4.0));
            let packs = !cache.is_empty() && cache.len().is_multiple_of(SPAN_LEN);
            let mut outcome = Ok(());
            let n = self
                .counter
                .instructions(|| outcome = A::append(&mut cache, &key[..key_dim], &value[..value_dim]));
            outcome?;
            *(if packs { &mut costs.append_packing } else { &mut costs.append }) = n;
            let len = token + 1;
            if len == SHORT || len == SHORT + MORE_TOKENS {
                let n = self
                    .counter
                    .instructions(|| outcome = A::attend(&cache, &query[..key_dim], &mut out[..value_dim]));
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

/// Hundredths of an instruction per value.
const fn hundredths(instructions: u32, values: usize) -> u32 {
    (instructions as u64 * 100 / values as u64) as u32
}
