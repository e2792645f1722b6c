//! Page tables.

pub(crate) mod kernel;
pub(crate) mod pte;
