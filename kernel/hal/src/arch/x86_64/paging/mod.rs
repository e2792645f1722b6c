//! Page tables: what entries look like ([`pte`]), the kernel's half ([`kernel`]), user address spaces ([`table`]),
//! and what CPUs remember of them ([`tlb`]).

pub(crate) mod kernel;
pub(crate) mod pte;
mod table;
pub(crate) mod tlb;

pub use table::{Cursor, PageTable};
pub(crate) use tlb::activate;
