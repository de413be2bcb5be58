//! Runs stock Linux guests on any machine.

fn main() {}
