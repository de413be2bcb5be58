//! Makes a microVM run.
