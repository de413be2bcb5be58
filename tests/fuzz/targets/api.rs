//! Requests of a client, from the line on which they begin, and configuration files: an answer is JSON, or there is
//! none.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = split(input, b'\n') else {
        return;
    };
    let Ok(line) = std::str::from_utf8(first) else {
        return;
    };
    match line.split_once(' ') {
        Some((method, path)) => {
            let answer = api_server::answer(method, path, rest).unwrap_or_default();
            let is_json = serde_json::from_slice::<serde_json::Value>(&answer).is_ok();
            assert!(answer.is_empty() || is_json, "{}", answer.escape_ascii());
        }
        None => {
            let _ = api_server::is_config_file(rest);
        }
    }
});

fn split(input: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = input.iter().position(|byte| *byte == at)?;
    Some((&input[..end], &input[end + 1..]))
}
