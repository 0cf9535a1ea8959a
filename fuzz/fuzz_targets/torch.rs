#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atbptt_fuzz::torch::torch(data));
