//! `kvq tune`: what it finds keeps its bits and is a policy that others read.

#[path = "common/program.rs"]
mod program;

use std::path::Path;
use std::process::Output;

fn tune(arguments: &[&str]) -> Output {
    program::kvq(&[&["tune"][..], arguments].concat())
}

fn tuned(name: &str, more: &[&str]) -> (String, String) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let short = ["--windows", "1", "--held-out", "1", "--out", path.to_str().unwrap()];
    let output = tune(&[&short[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(path).unwrap())
}

/// The compression that the file's second line says it reached on held-out text.
fn reached(file: &str) -> f64 {
    let line = file.lines().nth(1).unwrap();
    let end = line.find("x of fp16").unwrap();
    line[..end].rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn fewer_bits_are_kept_to_and_every_knob_is_shown() {
    for (bits, compression) in [("4", 4.0), ("3.2", 5.0)] {
        let (text, file) = tuned(&format!("tuned-{bits}.toml"), &["--budget-bpv", bits]);
        for knob in ["ladder", "recent_len 16, span_len 64", "key_tiers [t4", "edge_layers first"] {
            assert!(text.contains(knob), "{knob} in\n{text}");
        }
        assert!(reached(&file) >= compression, "{file}");
        let policy = kvq_host::policy::parse(&file).unwrap();
        assert_eq!(policy.budget, kvq_codec::Budget::Compression((100.0 * compression) as u16));
    }
}

#[test]
fn bad_values_name_the_flag_the_value_and_what_is_allowed() {
    for (arguments, words) in [
        (&["--budget-bpv", "1", "--out", "x.toml"][..], ["--budget-bpv", "'1'", "2.5 to 8"]),
        (&["--budget-bpv", "4", "--out", "x.toml", "--context", "512"], ["--context", "512", "1024"]),
        (&["--budget-bpv", "4", "--out", "x.toml", "--windows", "0"], ["--windows", "'0'", "from 1"]),
        (&["--budget-bpv", "4", "--out", "x.toml", "--json", "-"], ["--json", "kvq eval", "policy file"]),
    ] {
        let output = tune(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let output =
        tune(&["--budget-bpv", "8", "--windows", "1", "--held-out", "1", "--out", "/no/such/x.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out /no/such/x.toml"));
}
