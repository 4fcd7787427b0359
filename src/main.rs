//! The `libernet` binary. Everything is in the library.

fn main() {}
