//! Page tables: what entries look like ([`pte`], [`leaf`]), the kernel's half ([`kernel`]), user address spaces
//! ([`table`], edited by [`cursor`]), and what CPUs remember of them ([`tlb`]).

mod cursor;
pub(crate) mod kernel;
mod large;
mod leaf;
pub(crate) mod pte;
mod table;
pub(crate) mod tlb;

pub use cursor::Cursor;
pub use table::PageTable;
pub(crate) use tlb::activate;
