//! No devices: ports read as all ones, and no window can be mapped.

use crate::addr::PhysAddr;
use crate::io::ClaimError;

pub fn ports_allowed(_base: u16, _len: u16) -> bool {
    true
}

pub fn in_u8(_port: u16) -> u8 {
    u8::MAX
}

pub fn out_u8(_port: u16, _value: u8) {}

pub fn in_u16(_port: u16) -> u16 {
    u16::MAX
}

pub fn out_u16(_port: u16, _value: u16) {}

pub fn in_u32(_port: u16) -> u32 {
    u32::MAX
}

pub fn out_u32(_port: u16, _value: u32) {}

#[derive(Debug)]
pub struct Window;

impl Window {
    pub fn read_u8(&self, _offset: usize) -> u8 {
        u8::MAX
    }

    pub fn write_u8(&self, _offset: usize, _value: u8) {}

    pub fn read_u16(&self, _offset: usize) -> u16 {
        u16::MAX
    }

    pub fn write_u16(&self, _offset: usize, _value: u16) {}

    pub fn read_u32(&self, _offset: usize) -> u32 {
        u32::MAX
    }

    pub fn write_u32(&self, _offset: usize, _value: u32) {}
}

pub fn map_device(_phys: PhysAddr, _len: usize) -> Result<Window, ClaimError> {
    Err(ClaimError::Forbidden)
}
