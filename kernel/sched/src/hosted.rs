//! The scheduler on the hosted machine: host threads of a test harness become threads of a CPU of their own.

use hal::cpu;
use hal::{preempt, trap};

use crate::core_sched::{self, hosted_hooks};
use crate::thread::{NEW, OFF_RQ, Thread};

/// Upcalls for tests that register none of their own: only the scheduler's part.
struct Scheduler;

impl trap::Upcalls for Scheduler {
    fn syscall(&self, _regs: &mut trap::UserRegs) {}

    fn page_fault(
        &self,
        _addr: hal::UserAddr,
        _access: trap::Access,
        _regs: Option<&mut trap::UserRegs>,
    ) -> Result<(), ()> {
        Err(())
    }

    fn user_exception(&self, _exception: trap::Exception, _regs: &mut trap::UserRegs) {}

    fn exit_to_user(&self, _regs: &mut trap::UserRegs) {}

    fn timer_interrupt(&self) {
        core_sched::timer_interrupt();
    }

    fn reschedule_ipi(&self) {
        core_sched::reschedule_ipi();
    }

    fn thread_started(&self, prev: alloc::sync::Arc<hal::thread::Thread>) {
        core_sched::thread_started(prev);
    }

    fn thread_exit(&self) -> ! {
        core_sched::exit_thread()
    }

    fn oops(&self, oops: &trap::Oops<'_>) {
        hal::klog::print(hal::klog::Level::Emergency, format_args!("{}", oops.message));
    }
}

/// Called when a host thread was made a thread of its CPU: gives the CPU an idle thread.
pub(crate) fn adopted() {
    trap::register(&Scheduler);
    hal::hosted::set_exit_hook(leaving);
    let me = {
        let pinned = preempt::disable();
        cpu::current_id(&pinned)
    };
    if hosted_hooks::has_idle_thread(me) {
        return;
    }
    let idle = match hal::thread::Thread::new(alloc::boxed::Box::new(|| core_sched::run_idle())) {
        Ok(idle) => Thread::wrap(idle, "idle", NEW | OFF_RQ),
        Err(_) => panic!("no host thread for an idle CPU"),
    };
    idle.state.store(crate::thread::RUNNING, core::sync::atomic::Ordering::SeqCst);
    hosted_hooks::set_idle_thread(me, idle);
}

/// A host thread ends and gives its CPU back: what is runnable there runs first.
fn leaving() {
    for _ in 0..1000 {
        if core_sched::nr_running_here() <= 1 {
            break;
        }
        core_sched::yield_now();
    }
    hosted_hooks::leave(&preempt::disable());
}
