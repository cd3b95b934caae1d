#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyzord::fuzzing::run("upstream", bytes));
