//! Timing one operation, and beside it a copy and a read of the same bytes in the same state of the caches.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, SamplingMode, Throughput};
use kvq_host::threads;

use crate::data::N_LAYERS;
use crate::limits::{Flush, read_sum};
use crate::weights::Weights;

/// Variable that names the file to which each bench adds a line on its work; `cargo xtask bench` reads it.
const WORK_FILE: &str = "KVQ_BENCH_WORK";

/// The same for what was timed in turns.
const TURNS_FILE: &str = "KVQ_BENCH_TURNS";

/// Inputs and outputs that make up as many weights as a layer of SmolLM2 has.
const LAYER_WEIGHTS: [usize; 2] = [576, 6144];

/// Decode steps of a contender in a round, of which the first is not timed.
const STEPS: usize = 4;

/// What the processor's caches hold when the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// What the last call left there.
    Warm,
    /// Other data: all levels were read over with it, as a model's weights do between two calls for one layer.
    Cold,
}

impl State {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Warm, Self::Cold];

    /// The name used in ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// What one call works on.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Bytes in the form that the cache holds them in, packed or dense.
    pub packed_bytes: usize,
    /// Bytes of the same values in fp16.
    pub fp16_bytes: usize,
}

/// One of several ways to the same end.
pub struct Contender<'a> {
    /// The name used in ids.
    pub name: &'a str,
    /// What one call works on.
    pub work: Work,
    /// One call, for a layer.
    pub call: Box<dyn FnMut(usize) + 'a>,
}

/// The benches of one operation.
pub struct Op {
    name: &'static str,
    criterion: Criterion,
    flush: OnceCell<Flush>,
    limits_done: HashSet<(State, usize)>,
}

impl Op {
    /// An operation; flags of the command line change how long is measured.
    pub fn new(name: &'static str) -> Self {
        // One thread for the dense stores too.
        threads::apply(Some(1)).expect("a process of one thread");
        let criterion = Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .without_plots()
            .configure_from_args();
        Self { name, criterion, flush: OnceCell::new(), limits_done: HashSet::new() }
    }

    /// Times `f`, and the copy and the read of as many bytes, unless they were timed before.
    pub fn bench(&mut self, state: State, case: &str, work: Work, f: impl FnMut()) {
        self.time(self.name.to_owned(), state, case, work, f);
        if !self.limits_done.insert((state, work.packed_bytes)) {
            return;
        }
        let n = work.packed_bytes;
        let as_is = Work { packed_bytes: n, fp16_bytes: n };
        let (from, mut to) = (vec![1u8; n], vec![0u8; n]);
        let group = format!("{}-limit", self.name);
        self.time(group.clone(), state, &format!("memcpy/{n}"), as_is, || {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        });
        self.time(group, state, &format!("read/{n}"), as_is, || {
            black_box(read_sum(black_box(&from)));
        });
    }

    fn time(&mut self, group: String, state: State, case: &str, work: Work, mut f: impl FnMut()) {
        let case = format!("{}/{case}", state.name());
        note_work(&format!("{group}/{case}"), state, work);
        let mut group = self.criterion.benchmark_group(group);
        group.throughput(Throughput::Bytes(work.fp16_bytes as u64));
        match state {
            State::Warm => group.bench_function(case, |b| b.iter(&mut f)),
            State::Cold => {
                let flush = self.flush.get_or_init(Flush::new);
                group.bench_function(case, |b| cold(b, flush, &mut f))
            }
        };
        group.finish();
    }

    /// Times all of `contenders` one after the other in each round, so that a machine that changes its pace changes it
    /// for all of them; `case` says what they have in common. Criterion's own figure is that of a whole round.
    pub fn turns(&mut self, state: State, case: &str, contenders: &mut [Contender<'_>]) {
        let flush = self.flush.get_or_init(Flush::new);
        take_turns(&mut self.criterion, [self.name, state.name(), case], contenders, |contender| {
            alone(state, flush, contender)
        });
    }

    /// As [`turns`](Self::turns), for all layers of a model as a decode calls for them: before each, a layer's weights are
    /// multiplied by. A contender's time is that of one layer.
    pub fn decode_turns(&mut self, case: &str, contenders: &mut [Contender<'_>]) {
        let [n_inputs, n_outputs] = LAYER_WEIGHTS;
        let weights = Weights::new(N_LAYERS, n_inputs, n_outputs);
        take_turns(&mut self.criterion, [self.name, "decode", case], contenders, |contender| {
            decode(&weights, contender)
        });
    }

    /// Prints criterion's closing lines.
    pub fn finish(self) {
        self.criterion.final_summary();
    }
}

/// Times each call alone, after the caches were filled with other data.
fn cold(bencher: &mut Bencher<'_>, flush: &Flush, f: &mut impl FnMut()) {
    bencher.iter_custom(|calls| {
        let mut total = Duration::ZERO;
        for _ in 0..calls {
            flush.run();
            let begun = Instant::now();
            f();
            total += begun.elapsed();
        }
        total
    });
}

/// Has `time` called for each contender, round after round.
fn take_turns(
    criterion: &mut Criterion,
    [op, state, case]: [&str; 3],
    contenders: &mut [Contender<'_>],
    time: impl Fn(&mut Contender<'_>) -> Duration,
) {
    let (name, id) = (format!("{op}-turns"), format!("{state}/{case}"));
    let mut rounds = Vec::new();
    let mut group = criterion.benchmark_group(&name);
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(&id, |b| {
        b.iter_custom(|n| {
            let round = |_| {
                let times: Vec<Duration> = contenders.iter_mut().map(&time).collect();
                rounds.push(times.iter().map(|time| time.as_nanos() as f64).collect());
                times.iter().sum::<Duration>()
            };
            (0..n).map(round).sum()
        });
    });
    group.finish();
    // Nothing was timed where a filter left this out.
    if !rounds.is_empty() {
        note_turns(&format!("{name}/{id}"), contenders, &rounds);
    }
}

/// One call of a contender.
fn alone(state: State, flush: &Flush, contender: &mut Contender<'_>) -> Duration {
    match state {
        State::Warm => (contender.call)(0),
        State::Cold => flush.run(),
    }
    let begun = Instant::now();
    (contender.call)(0);
    begun.elapsed()
}

/// Calls of a contender for all layers, some steps in a row; what one takes.
fn decode(weights: &Weights, contender: &mut Contender<'_>) -> Duration {
    let mut time = Duration::ZERO;
    for step in 0..STEPS {
        for layer in 0..N_LAYERS {
            weights.multiply(layer);
            let begun = Instant::now();
            (contender.call)(layer);
            time += if step > 0 { begun.elapsed() } else { Duration::ZERO };
        }
    }
    time / ((STEPS - 1) * N_LAYERS) as u32
}

/// Adds a line per contender: id of the bench, name, median time in ns, the last contender's name, and the median over the
/// rounds of that one's time over its own.
fn note_turns(id: &str, contenders: &[Contender<'_>], rounds: &[Vec<f64>]) {
    let mut lines = String::new();
    let against = contenders.last().map_or("", |last| last.name);
    for (i, contender) in contenders.iter().enumerate() {
        let time = median(rounds.iter().map(|times| times[i]));
        let speed = median(rounds.iter().map(|times| times[contenders.len() - 1] / times[i]));
        lines += &format!("{id}\t{}\t{time:.0}\t{against}\t{speed:.4}\n", contender.name);
    }
    print!("{lines}");
    append(TURNS_FILE, &lines);
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Adds a line on the work of one bench: its id, state, packed bytes and fp16 bytes, with tabs between them.
fn note_work(id: &str, state: State, work: Work) {
    append(WORK_FILE, &format!("{id}\t{}\t{}\t{}\n", state.name(), work.packed_bytes, work.fp16_bytes));
}

/// Adds lines to the file that the variable names, if it is set.
fn append(variable: &str, lines: &str) {
    let Some(path) = std::env::var_os(variable) else { return };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
