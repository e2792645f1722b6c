//! Where the CPUs of a guest are that has fallen silent: QEMU's monitor is asked, before the guest is killed.
//!
//! For each CPU of Keel: its function and, from what lies on its stack, the likely callers. Words on a stack that look like
//! return addresses may be left over from calls that are done.
//!
//! Source: QEMU, Human Monitor Protocol (`info registers -a`, `cpu`, `x`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol};

use crate::ksyms;

/// QEMU answers at once; one that does not is stuck itself.
const PATIENCE: Duration = Duration::from_secs(5);
const PROMPT: &str = "(qemu) ";
/// Words of a stack that are looked at, and functions that are shown.
const STACK_WORDS: usize = 256;
const MOST_CALLERS: usize = 12;
/// The half of the addresses that is the kernel's.
const KERNEL_HALF: u64 = 1 << 63;

/// Text about each CPU of the guest that runs the kernel file `elf`, from the monitor at the socket `monitor`.
pub fn describe(monitor: &Path, elf: &Path) -> Result<String> {
    let mut monitor = Monitor::connect(monitor)?;
    let registers = monitor.ask("info registers -a")?;
    let cpus = parse_cpus(&registers);
    ensure!(!cpus.is_empty(), "QEMU names no CPU");
    let symbols = Symbols::load(elf, cpus[0].idt)?;
    let mut text = String::from("---- where its CPUs are ----\n");
    for cpu in &cpus {
        let state = if cpu.is_halted { "halted" } else { "running" };
        let interrupts = if cpu.interrupts_on { "on" } else { "off" };
        let place = symbols.name(cpu.rip).unwrap_or_else(|| format!("{:#x}", cpu.rip));
        writeln!(text, "CPU {}: {state}, interrupts {interrupts}, {place}", cpu.number)?;
        if cpu.rsp & KERNEL_HALF != 0 {
            monitor.ask(&format!("cpu {}", cpu.number))?;
            let stack = monitor.ask(&format!("x /{STACK_WORDS}gx {:#x}", cpu.rsp))?;
            // A return address is behind a call, so not where a function begins.
            let callers = parse_words(&stack).filter_map(|word| symbols.name(word));
            let callers = callers.filter(|caller| !caller.ends_with("+0x0"));
            callers.take(MOST_CALLERS).for_each(|caller| text.push_str(&format!("    {caller}\n")));
        }
    }
    Ok(text)
}

/// A connection to QEMU's monitor.
struct Monitor(UnixStream);

impl Monitor {
    fn connect(path: &Path) -> Result<Monitor> {
        let stream = UnixStream::connect(path).context("QEMU's monitor cannot be reached")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor(stream);
        monitor.answer()?;
        Ok(monitor)
    }

    /// What is printed after the command, which the monitor echoes.
    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.0, "{command}")?;
        self.answer()
    }

    /// All up to the next prompt.
    fn answer(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while !bytes.ends_with(PROMPT.as_bytes()) {
            let len = self.0.read(&mut buffer).context("QEMU's monitor does not answer")?;
            ensure!(len > 0, "QEMU's monitor has hung up");
            bytes.extend_from_slice(&buffer[..len]);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// One CPU as `info registers` has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cpu {
    number: u32,
    rip: u64,
    rsp: u64,
    idt: u64,
    is_halted: bool,
    interrupts_on: bool,
}

/// The interrupt flag in RFLAGS.
const RFLAGS_IF: u64 = 1 << 9;

fn parse_cpus(text: &str) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(number) = line.strip_prefix("CPU#") {
            let number = number.trim().parse().unwrap_or(0);
            cpus.push(Cpu { number, ..Cpu::default() });
        }
        let Some(cpu) = cpus.last_mut() else { continue };
        if let Some(base) = line.strip_prefix("IDT=").and_then(|rest| rest.split_whitespace().next()) {
            cpu.idt = u64::from_str_radix(base, 16).unwrap_or(0);
        }
        for (name, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            let value = u64::from_str_radix(value, 16).unwrap_or(0);
            match name {
                "RIP" => cpu.rip = value,
                "RSP" => cpu.rsp = value,
                "RFL" => cpu.interrupts_on = value & RFLAGS_IF != 0,
                "HLT" => cpu.is_halted = value != 0,
                _ => {}
            }
        }
    }
    cpus
}

/// The words of what `x /Ngx` prints: lines of an address, a colon and values.
fn parse_words(text: &str) -> impl Iterator<Item = u64> {
    text.lines().filter_map(|line| line.split_once(": 0x")).flat_map(|(_, values)| {
        values
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
    })
}

/// The functions of a kernel at the place where it runs.
struct Symbols {
    functions: BTreeMap<u64, String>,
    /// How far it was moved from where it was linked.
    slide: u64,
}

/// Longer functions there are none; what is further behind one is no code.
const MAX_FUNCTION: u64 = 1 << 16;

impl Symbols {
    /// Those of `elf`, whose interrupt table is at `idt`.
    fn load(elf: &Path, idt: u64) -> Result<Symbols> {
        let bytes = fs::read(elf)?;
        let file = object::File::parse(&*bytes).context("the kernel is no ELF file")?;
        let is_idt = |name: &str| format!("{:#}", rustc_demangle::demangle(name)).ends_with("::idt::IDT");
        let linked = file.symbols().find(|symbol| symbol.name().is_ok_and(is_idt));
        let linked = linked.context("the kernel has no symbol for its interrupt table")?.address();
        Ok(Symbols { functions: ksyms::functions(elf)?, slide: idt.wrapping_sub(linked) })
    }

    /// Function and offset of `address`, if it is code.
    fn name(&self, address: u64) -> Option<String> {
        let address = address.wrapping_sub(self.slide);
        let (start, name) = self.functions.range(..=address).next_back()?;
        let offset = address - start;
        (offset < MAX_FUNCTION).then(|| format!("{name}+{offset:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read() {
        let text = "info registers -a\r\n\r\nCPU#0\r\nRAX=0000000000000001 RBX=0000000000000000\r\n\
            RSI=0000000000000000 RDI=0 RBP=0 RSP=ffffc90000011e58\r\n\
            RIP=ffffffff8100a000 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
            IDT=     ffffffff81900ca0 00000fff\r\nCPU#1\r\nRIP=0000000000401000 RFL=00000002 HLT=0\r\n(qemu) ";
        let cpus = parse_cpus(text);
        let first = Cpu {
            number: 0,
            rip: 0xffff_ffff_8100_a000,
            rsp: 0xffff_c900_0001_1e58,
            idt: 0xffff_ffff_8190_0ca0,
            is_halted: true,
            interrupts_on: true,
        };
        assert_eq!(cpus[0], first);
        assert_eq!(cpus[1], Cpu { number: 1, rip: 0x40_1000, ..Cpu::default() });
    }

    #[test]
    fn words_of_memory_are_read() {
        let text = "x /3gx 0x10\r\n0000000000000010: 0x0000000000000001 0xffffffff80000000\r\n\
            0000000000000020: 0x00000000000000ff\r\n(qemu) ";
        assert_eq!(parse_words(text).collect::<Vec<_>>(), [1, 0xffff_ffff_8000_0000, 0xff]);
    }
}
