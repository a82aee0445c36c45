//! See `kvq_codec_fuzz::operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(kvq_codec_fuzz::operations::run(data)));
