//! The glue that hal calls: each event goes to the crate whose job it is.

use alloc::sync::Arc;

use hal::addr::UserAddr;
use hal::thread::{Thread, Work};
use hal::trap::{self, Access, Exception, Oops, Upcalls, UserRegs};

struct Kernel;

static KERNEL: Kernel = Kernel;

/// Registers the upcalls. First thing at boot.
pub(crate) fn register() {
    trap::register(&KERNEL);
}

impl Upcalls for Kernel {
    #[inline]
    fn syscall(&self, regs: &mut UserRegs) {
        syscall::dispatch(regs);
    }

    fn page_fault(&self, addr: UserAddr, access: Access, regs: Option<&mut UserRegs>) -> Result<(), ()> {
        process::signal::page_fault(addr, access, regs)
    }

    fn user_exception(&self, exception: Exception, regs: &mut UserRegs) {
        process::signal::user_exception(exception, regs);
    }

    fn exit_to_user(&self, regs: &mut UserRegs) {
        if hal::thread::current().work().contains(Work::RESCHED) {
            sched::schedule();
        }
        process::signal::exit_to_user(regs);
    }

    fn timer_interrupt(&self) {
        process::timer::tick();
        sched::timer_interrupt();
    }

    fn reschedule_ipi(&self) {
        sched::reschedule_ipi();
    }

    fn thread_started(&self, prev: Arc<Thread>) {
        sched::thread_started(prev);
    }

    fn thread_exit(&self) -> ! {
        process::exit::thread_exit()
    }

    fn oops(&self, oops: &Oops<'_>) {
        if oops.in_thread {
            log::error!("the thread that ran into this dies");
        }
    }
}
