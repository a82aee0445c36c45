//! See `kvq_codec_fuzz::backends`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvq_codec_fuzz::backends::run(data));
