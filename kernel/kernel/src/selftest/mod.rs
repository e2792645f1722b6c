//! Tests of hal that need the real machine: `--features selftest` makes a kernel that runs them and powers off.
//!
//! There is no scheduler here: threads take turns through one queue, and all CPUs take from it. The report is KTAP.

mod machine;
mod program;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hal::addr::{PageRange, UserAddr};
use hal::frame::Frame;
use hal::klog::{self, Level};
use hal::paging::{PageTable, PteFlags};
use hal::sync::IrqLock;
use hal::thread::{self, Fpu, Thread};
use hal::trap::{self, Access, Exception, Oops, Upcalls, UserRegs};
use hal::{irq, preempt, user};

static QUEUE: IrqLock<VecDeque<Arc<Thread>>> = IrqLock::new("selftest.queue", VecDeque::new());
static LOG: IrqLock<Vec<u32>> = IrqLock::new("selftest.log", Vec::new());
/// Threads that have not ended yet.
static LIVE: AtomicU32 = AtomicU32::new(0);
static DROPPED: AtomicU32 = AtomicU32::new(0);
static OOPSES: AtomicU32 = AtomicU32::new(0);
/// Vectors of user exceptions, a bit each.
static VECTORS: AtomicU64 = AtomicU64::new(0);
static STEPS: AtomicU32 = AtomicU32::new(0);
/// What each program passed to its last call.
static RESULTS: [AtomicU64; 3] = [const { AtomicU64::new(u64::MAX) }; 3];
/// Timer interrupts.
static TICKS: AtomicU32 = AtomicU32::new(0);
/// The tick that the hook that preempts waits for; how deep it is nested, and was at most.
static LINGERS_UNTIL: AtomicU32 = AtomicU32::new(0);
static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
/// Timer interrupts of kernel code that were handled on the stack of the thread they interrupted.
static ON_THREADS: AtomicU32 = AtomicU32::new(0);
const TICK_NS: u64 = 200_000;
static FAILED: AtomicBool = AtomicBool::new(false);
static TEST_NO: AtomicU32 = AtomicU32::new(0);

fn check(name: &str, passed: bool) {
    let number = TEST_NO.fetch_add(1, Ordering::Relaxed) + 1;
    if !passed {
        FAILED.store(true, Ordering::Relaxed);
    }
    klog::print(Level::Info, format_args!("{}ok {number} {name}", if passed { "" } else { "not " }));
}

/// Lets the next thread of the queue run; `false` if there is none.
fn yield_now() -> bool {
    let _stay = preempt::disable();
    switch_to_next()
}

/// As [`yield_now`], with preemption off by one guard.
fn switch_to_next() -> bool {
    let _off = irq::disable();
    let Some(next) = QUEUE.lock().pop_front() else { return false };
    QUEUE.lock().push_back(thread::current().arc());
    drop(thread::switch_to(next));
    true
}

fn spawn(entry: impl FnOnce() + Send + 'static) {
    let thread = Thread::new(Box::new(entry)).expect("memory for a thread");
    LIVE.fetch_add(1, Ordering::Relaxed);
    QUEUE.lock().push_back(thread);
}

fn run_all() {
    while LIVE.load(Ordering::Relaxed) != 0 {
        yield_now();
        hal::cpu::relax();
    }
}

/// What the timer does to code in the kernel.
fn preempted(_pinned: &preempt::PreemptGuard) {
    preempt::clear_need_resched();
    if TICKS.load(Ordering::Relaxed) < LINGERS_UNTIL.load(Ordering::Relaxed) {
        let depth = DEPTH.fetch_add(1, Ordering::Relaxed);
        DEEPEST.fetch_max(depth + 1, Ordering::Relaxed);
        while TICKS.load(Ordering::Relaxed) < LINGERS_UNTIL.load(Ordering::Relaxed) {
            hal::cpu::relax();
        }
        DEPTH.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    switch_to_next();
}

/// Switches the timer of this CPU on; interrupts come from now on.
fn start_ticking() {
    irq::without(|| hal::time::set_timer(hal::time::now_ns() + TICK_NS));
}

/// Sets a counter when it is dropped: shows that unwinding ran destructors.
struct CountsDrop;

impl Drop for CountsDrop {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

struct TestCalls;

impl TestCalls {
    fn call(&self, regs: &mut UserRegs) -> u64 {
        match regs.orig_rax {
            program::ECHO => regs.rsi + 1,
            program::YIELD => {
                yield_now();
                0
            }
            program::BAD_RETURN => {
                regs.r15 = regs.rip;
                regs.rip = 0x1234_5678_9abc_def0;
                0
            }
            program::COPY => {
                let _counted = (regs.rdi == program::CURSED).then(|| CountsDrop);
                let mut buf = [0; 64];
                let len = buf.len().min(regs.rsi as usize);
                user::read_partial(UserAddr(regs.rdi), &mut buf[..len]) as u64
            }
            program::SAVE => {
                u64::from(thread::current().save_fpu(UserAddr(regs.rdi), hal::pkey::rights()).is_err())
            }
            program::RESTORE => u64::from(thread::current().restore_fpu(UserAddr(regs.rdi)).is_err()),
            program::PANIC => {
                let _counted = CountsDrop;
                let nothing: Option<u32> = core::hint::black_box(None);
                u64::from(nothing.expect("a panic on purpose"))
            }
            program::DONE => {
                RESULTS[(regs.rbx as usize).min(2)].store(regs.rdi, Ordering::Relaxed);
                thread::exit()
            }
            _ => u64::MAX - 37,
        }
    }
}

impl Upcalls for TestCalls {
    fn syscall(&self, regs: &mut UserRegs) {
        regs.rax = self.call(regs);
    }

    fn page_fault(&self, addr: UserAddr, _access: Access, regs: Option<&mut UserRegs>) -> Result<(), ()> {
        assert!(addr.page().0 != program::CURSED, "a panic on purpose");
        if addr.page().0 != program::DATA {
            if let Some(regs) = regs {
                RESULTS[(regs.rbx as usize).min(2)].store(addr.0, Ordering::Relaxed);
                thread::exit()
            }
            return Err(());
        }
        let table = thread::current().page_table().ok_or(())?;
        map(&table, program::DATA, &[], PteFlags::WRITE);
        Ok(())
    }

    fn user_exception(&self, exception: Exception, regs: &mut UserRegs) {
        VECTORS.fetch_or(1 << exception.vector, Ordering::Relaxed);
        match exception.vector {
            1 => {
                STEPS.fetch_add(1, Ordering::Relaxed);
            }
            13 if regs.rip == 0x1234_5678_9abc_def0 => regs.rip = regs.r15,
            _ => regs.rip += 2, // each of the tested instructions has two bytes
        }
    }

    fn exit_to_user(&self, _regs: &mut UserRegs) {
        thread::current().clear_work(thread::Work::all());
        preempt::clear_need_resched();
        yield_now();
    }

    fn timer_interrupt(&self) {
        if machine::timer_fired() {
            return;
        }
        TICKS.fetch_add(1, Ordering::Relaxed);
        let here = 0_u8;
        let (bottom, top) = thread::current().stack_bounds();
        if !trap::interrupted_user_mode() && (bottom..top).contains(&(core::ptr::from_ref(&here) as usize)) {
            ON_THREADS.fetch_add(1, Ordering::Relaxed);
        }
        preempt::set_need_resched();
        thread::current().set_work(thread::Work::RESCHED);
        hal::time::set_timer(hal::time::now_ns() + TICK_NS);
    }

    fn reschedule_ipi(&self) {}

    fn thread_started(&self, prev: Arc<Thread>) {
        drop(prev);
    }

    fn thread_exit(&self) -> ! {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        core::mem::forget(preempt::disable());
        core::mem::forget(irq::disable());
        loop {
            let next = QUEUE.lock().pop_front();
            if let Some(next) = next {
                drop(thread::switch_to(next));
            }
        }
    }

    fn oops(&self, _oops: &Oops<'_>) {
        OOPSES.fetch_add(1, Ordering::Relaxed);
    }
}

fn map(table: &PageTable, addr: u64, contents: &[u8], flags: PteFlags) {
    let frame = Frame::alloc_zeroed().expect("a frame");
    frame.write(0, contents);
    let range = PageRange::page_of(UserAddr(addr)).expect("a user page");
    table.cursor(range).map(addr, frame, flags).expect("memory for page tables");
}

/// Makes a thread that runs the test program from `entry` with `id` in RDI.
fn spawn_program(id: u64, entry: u64) {
    let table = Arc::new(PageTable::new().expect("a page table"));
    map(&table, program::CODE, &program::BYTES, PteFlags::EXEC);
    map(&table, program::STACK, &[], PteFlags::WRITE);
    let regs = UserRegs {
        rip: program::CODE + entry,
        rsp: program::STACK + 0xff0,
        rdi: id,
        rbx: id,
        cs: 0x33,
        ss: 0x2b,
        ..UserRegs::default()
    };
    let thread = Thread::new_user(regs, Fpu::Fresh, Box::new(|| ())).expect("memory for a thread");
    Thread::set_first_page_table(&thread, Some(table));
    LIVE.fetch_add(1, Ordering::Relaxed);
    QUEUE.lock().push_back(thread);
}

fn threads_take_turns() {
    for id in 0..3 {
        spawn(move || {
            for round in 0..3 {
                LOG.lock().push(round * 10 + id);
                yield_now();
            }
        });
    }
    run_all();
    check("threads take turns", *LOG.lock() == [0, 1, 2, 10, 11, 12, 20, 21, 22]);
}

fn programs_run() {
    spawn_program(1, 0);
    spawn_program(2, 0);
    run_all();
    let results: Vec<u64> = RESULTS[1..].iter().map(|result| result.load(Ordering::Relaxed)).collect();
    klog::print(
        Level::Info,
        format_args!("# results {results:x?} vectors {:x}", VECTORS.load(Ordering::Relaxed)),
    );
    check("two user programs keep their registers", results == [0, 0]);
    check(
        "#DB, #UD and #GP reach the floors above",
        VECTORS.load(Ordering::Relaxed) == 1 << 1 | 1 << 6 | 1 << 13,
    );
    check("TF steps", STEPS.load(Ordering::Relaxed) > 2);
}

fn signal_frames_keep_vector_registers() {
    RESULTS[1].store(u64::MAX, Ordering::Relaxed);
    spawn_program(1, program::FRAME_ENTRY);
    run_all();
    let result = RESULTS[1].load(Ordering::Relaxed);
    klog::print(Level::Info, format_args!("# result {result:x}"));
    check("a signal frame keeps the vector registers, a bad one does no harm", result == 0);
}

fn the_timer_preempts() {
    static GO: AtomicBool = AtomicBool::new(false);
    start_ticking();
    spawn(|| {
        while !GO.load(Ordering::Relaxed) {
            hal::cpu::relax(); // only the timer takes the CPU away
        }
    });
    spawn(|| GO.store(true, Ordering::Relaxed));
    run_all();
    check("the timer preempts kernel code", true);
    check("interrupts of kernel code have a stack of their own", ON_THREADS.load(Ordering::Relaxed) == 0);
    spin("the timer preempts user code");
}

/// While a preemption goes on, interrupts come but do not preempt it: a burst of them must not fill the stack.
fn preemption_does_not_nest() {
    let end = TICKS.load(Ordering::Relaxed) + 20;
    LINGERS_UNTIL.store(end, Ordering::Relaxed);
    while TICKS.load(Ordering::Relaxed) < end {
        hal::cpu::relax();
    }
    check("preemption does not nest", DEEPEST.load(Ordering::Relaxed) == 1);
}

/// Runs programs that check their registers while the timer moves them about.
fn spin(name: &str) {
    for result in &RESULTS {
        result.store(0, Ordering::Relaxed);
    }
    let before = TICKS.load(Ordering::Relaxed);
    for id in 0..6 {
        spawn_program(id % 3, program::SPIN_ENTRY);
    }
    run_all();
    let ticks = TICKS.load(Ordering::Relaxed) - before;
    let results: Vec<u64> = RESULTS.iter().map(|result| result.load(Ordering::Relaxed)).collect();
    klog::print(Level::Info, format_args!("# results {results:x?}, {ticks} ticks"));
    check(name, results == [0, 0, 0] && ticks > 10);
}

/// What the other CPUs do.
fn other_cpu() -> ! {
    irq::enable();
    start_ticking();
    loop {
        yield_now();
        hal::cpu::relax();
    }
}

fn threads_move_between_cpus() {
    machine::release_cpus();
    klog::print(Level::Info, format_args!("# {} CPUs", hal::cpu::nr_cpus()));
    spin("programs keep their registers on many CPUs");
}

fn panics_cost_one_thread() {
    spawn(|| {
        let _counted = CountsDrop;
        let _lock = LOG.lock();
        let empty: Option<u32> = core::hint::black_box(None);
        empty.expect("a panic on purpose");
    });
    run_all();
    check("a panic in a kernel thread unwinds it", DROPPED.load(Ordering::Relaxed) == 1);
    check("unwinding releases locks", LOG.try_lock().is_some());
    check("preemption and interrupts are as before", preempt::count() == 0 && irq::enabled());
    spawn_program(1, program::PANIC_ENTRY);
    run_all();
    check("a panic in a system call unwinds it", DROPPED.load(Ordering::Relaxed) == 2);
    check("both were told", OOPSES.load(Ordering::Relaxed) == 2);
    spawn_program(1, program::FAULT_ENTRY);
    spawn_program(2, program::COPY_ENTRY);
    run_all();
    check("so does one in a page fault, of user code or of a copy", OOPSES.load(Ordering::Relaxed) == 4);
    check("with all guards dropped", DROPPED.load(Ordering::Relaxed) == 3 && preempt::count() == 0);
}

/// The address spaces of mm on the machine's own page tables, and what their common operations cost: with QEMU's
/// `-icount shift=0` a nanosecond is an instruction.
fn address_spaces_agree_with_a_model() {
    static DONE: AtomicBool = AtomicBool::new(false);
    spawn(|| {
        for seed in 1..5 {
            mm::selftest::random_operations(seed * 0x9e37_79b9_7f4a, 500);
        }
        mm::selftest::measure(hal::time::now_ns, |name, each| {
            klog::print(Level::Info, format_args!("# {name}: {each} ns"));
        });
        DONE.store(true, Ordering::Relaxed);
    });
    run_all();
    check("random operations on address spaces agree with a byte per page", DONE.load(Ordering::Relaxed));
}

/// Runs all tests and switches the machine off.
pub fn main() -> ! {
    trap::register(&TestCalls);
    irq::enable();
    klog::print(Level::Info, format_args!("KTAP version 1"));
    threads_take_turns();
    programs_run();
    signal_frames_keep_vector_registers();
    panics_cost_one_thread();
    address_spaces_agree_with_a_model();
    machine::run();
    preempt::set_resched_hook(preempted);
    the_timer_preempts();
    preemption_does_not_nest();
    threads_move_between_cpus();
    let outcome = if FAILED.load(Ordering::Relaxed) { "FAILED" } else { "passed" };
    klog::print(Level::Info, format_args!("1..{}\n# {outcome}", TEST_NO.load(Ordering::Relaxed)));
    hal::power::power_off()
}
