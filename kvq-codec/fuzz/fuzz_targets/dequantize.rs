//! See `kvq_codec_fuzz::dequantize`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvq_codec_fuzz::dequantize::run(data));
