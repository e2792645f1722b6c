//! Device registers: port ranges and memory windows, claimed by one driver each.

use crate::addr::PhysAddr;
use crate::arch;
use crate::sync::SpinLock;

use alloc::vec::Vec;

static PORTS: SpinLock<Vec<(u16, u16, &'static str)>> = SpinLock::new("hal.io.ports", Vec::new());
static WINDOWS: SpinLock<Vec<(u64, u64, &'static str)>> = SpinLock::new("hal.io.windows", Vec::new());

/// Why a claim failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// Another driver has a part of the range.
    Busy,
    /// The range belongs to the machine itself (interrupt controllers, RAM) or does not exist.
    Forbidden,
    /// It could not be mapped.
    NoMemory,
}

/// A range of I/O ports; only the owner can access them.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    len: u16,
}

impl Ports {
    /// Claims `len` ports from `base` for the driver `name`.
    pub fn claim(base: u16, len: u16, name: &'static str) -> Result<Ports, ClaimError> {
        let end = base.checked_add(len).ok_or(ClaimError::Forbidden)?;
        if !arch::io::ports_allowed(base, len) {
            return Err(ClaimError::Forbidden);
        }
        let mut ports = PORTS.lock();
        if ports.iter().any(|&(b, l, _)| base < b + l && b < end) {
            return Err(ClaimError::Busy);
        }
        ports.push((base, len, name));
        Ok(Ports { base, len })
    }

    #[track_caller]
    fn port(&self, offset: u16, width: u16) -> u16 {
        assert!(offset < self.len && width <= self.len - offset, "port access outside of the claim");
        self.base + offset
    }

    /// Reads a byte from port `offset` of the range.
    #[track_caller]
    pub fn read_u8(&self, offset: u16) -> u8 {
        arch::io::in_u8(self.port(offset, 1))
    }

    /// Writes a byte.
    #[track_caller]
    pub fn write_u8(&self, offset: u16, value: u8) {
        arch::io::out_u8(self.port(offset, 1), value);
    }

    /// Reads 16 bits.
    #[track_caller]
    pub fn read_u16(&self, offset: u16) -> u16 {
        arch::io::in_u16(self.port(offset, 2))
    }

    /// Writes 16 bits.
    #[track_caller]
    pub fn write_u16(&self, offset: u16, value: u16) {
        arch::io::out_u16(self.port(offset, 2), value);
    }

    /// Reads 32 bits.
    #[track_caller]
    pub fn read_u32(&self, offset: u16) -> u32 {
        arch::io::in_u32(self.port(offset, 4))
    }

    /// Writes 32 bits.
    #[track_caller]
    pub fn write_u32(&self, offset: u16, value: u32) {
        arch::io::out_u32(self.port(offset, 4), value);
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        PORTS.lock().retain(|&(base, ..)| base != self.base);
    }
}

/// A window of device memory, mapped uncached; only the owner can access it.
#[derive(Debug)]
pub struct Mmio {
    phys: u64,
    len: usize,
    window: arch::io::Window,
}

impl Mmio {
    /// Claims `len` bytes of device memory at `phys` for the driver `name`.
    pub fn claim(phys: PhysAddr, len: usize, name: &'static str) -> Result<Mmio, ClaimError> {
        let end = phys.0.checked_add(len as u64).ok_or(ClaimError::Forbidden)?;
        let mut windows = WINDOWS.lock();
        if windows.iter().any(|&(b, e, _)| phys.0 < e && b < end) {
            return Err(ClaimError::Busy);
        }
        let window = arch::io::map_device(phys, len)?;
        windows.push((phys.0, end, name));
        Ok(Mmio { phys: phys.0, len, window })
    }

    #[track_caller]
    fn check(&self, offset: usize, width: usize) -> usize {
        let is_inside = offset.is_multiple_of(width) && offset < self.len && self.len - offset >= width;
        // The claim need not begin at a multiple of `width`, but registers do.
        assert!(is_inside && self.phys.is_multiple_of(width as u64), "access outside of the window");
        offset
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: windows are not empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the 8-bit register at `offset`.
    #[track_caller]
    pub fn read_u8(&self, offset: usize) -> u8 {
        self.window.read_u8(self.check(offset, 1))
    }

    /// Writes the 8-bit register at `offset`.
    #[track_caller]
    pub fn write_u8(&self, offset: usize, value: u8) {
        self.window.write_u8(self.check(offset, 1), value);
    }

    /// Reads the 16-bit register at `offset`.
    #[track_caller]
    pub fn read_u16(&self, offset: usize) -> u16 {
        self.window.read_u16(self.check(offset, 2))
    }

    /// Writes the 16-bit register at `offset`.
    #[track_caller]
    pub fn write_u16(&self, offset: usize, value: u16) {
        self.window.write_u16(self.check(offset, 2), value);
    }

    /// Reads the 32-bit register at `offset`.
    #[track_caller]
    pub fn read_u32(&self, offset: usize) -> u32 {
        self.window.read_u32(self.check(offset, 4))
    }

    /// Writes the 32-bit register at `offset`.
    #[track_caller]
    pub fn write_u32(&self, offset: usize, value: u32) {
        self.window.write_u32(self.check(offset, 4), value);
    }
}

impl Drop for Mmio {
    fn drop(&mut self) {
        WINDOWS.lock().retain(|&(base, ..)| base != self.phys);
    }
}

/// The claimed port ranges (base, length, owner), for /proc/ioports.
pub fn collect_ports() -> Vec<(u16, u16, &'static str)> {
    PORTS.lock().clone()
}
