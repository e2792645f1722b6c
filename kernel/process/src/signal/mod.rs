//! Signals: sending, queueing, delivery, stopping and continuing (signal(7)).
//!
//! ```text
//! kill, fault, timer ─▶ send ─▶ Pending (thread or process) ─▶ notify a thread (Work::SIGNAL)
//!                                                                     │
//!              user handler ◀─ frame ◀─ deliver ◀─ exit_to_user ◀─────┘
//!              stop, end, restart of the call ◀──┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | `pending` | the queue |
//! | `action` | sigaction(2) and default actions |
//! | `send` | who may send, what is dropped, which thread takes it |
//! | `deliver` | the way to user mode: taking signals, default actions, restart of calls |
//! | `frame` | the frame on the user stack, rt_sigreturn(2), sigaltstack(2) |
//! | `stop` | job control stops and SIGCONT |
//! | `fault` | exceptions as signals |
//! | `calls` | rt_sigprocmask(2), rt_sigaction(2), rt_sigtimedwait(2) and the like |
//!
//! The lock is `ThreadGroup::sig`; see `group` for the order.

mod action;
mod calls;
mod deliver;
mod fault;
mod frame;
mod pending;
mod send;
mod stop;

pub(crate) use action::Clear;
pub use action::SigHand;
pub use calls::{
    CallMask, dequeue, mask_of, pause, peek_pending, restart_syscall, restart_with, set_mask_for_call,
    set_mask_of, sigaction, sigaltstack, sigmask, signals_pending, sigpending, sigsuspend, sigtimedwait,
};
pub(crate) use deliver::CORE_DUMPED;
pub use deliver::{do_task_work, exit_to_user};
pub use fault::{force, force_deadly, force_fatal, page_fault, user_exception};
pub use frame::{AltStack, min_stack_size, sigreturn};
pub(crate) use pending::Pending;
pub use send::{
    Target, kill, kill_process, send_checked, send_checked_pgrp, send_kernel, send_user, sigqueue, tgkill,
    tkill,
};
pub(crate) use send::{flush_timer, kill_all_threads, recalc, retarget, send_timer, uid_seen_by};
pub(crate) use stop::{notify_parent_stopped, take_part as take_part_in_stop};
