//! Tests with stock Linux guests.

fn main() {}
