//! Keel, the kernel binary.
fn main() {}
