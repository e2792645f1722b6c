//! sched_setscheduler(2), sched_setattr(2) and sched_getattr(2).

use crate::prelude::*;

tests!(
    "scheduling":
    children_of_a_resetting_thread_are_ordinary, attributes_come_back, keep_flags, sizes, bad_attributes,
    what_needs_privilege,
);

const RESET_ON_FORK: i32 = 0x4000_0000;
const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMS: u64 = 0x10;
const FIRST_SIZE: u32 = 48;

/// `struct sched_attr` of the first version.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Attr {
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
}

impl Attr {
    fn words(self, size: u32) -> [u64; 6] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [pair(size, self.policy), self.flags, pair(self.nice as u32, self.priority), self.runtime, 0, 0]
    }

    fn set(self) -> Result<usize, Errno> {
        sys!(SYS_sched_setattr, 0, &self.words(FIRST_SIZE), 0)
    }

    fn get() -> Attr {
        let mut words = [0u64; 6];
        sys!(SYS_sched_getattr, 0, &mut words, FIRST_SIZE, 0).unwrap();
        assert_eq!(words[0] as u32, FIRST_SIZE);
        Attr {
            policy: (words[0] >> 32) as u32,
            flags: words[1],
            nice: words[2] as i32,
            priority: (words[2] >> 32) as u32,
            runtime: words[3],
        }
    }
}

fn set_policy(policy: i32, priority: i32) -> Result<usize, Errno> {
    sys!(SYS_sched_setscheduler, 0, policy, &priority)
}

fn children_of_a_resetting_thread_are_ordinary() {
    set_policy(SCHED_FIFO | RESET_ON_FORK, 5).unwrap();
    assert_eq!(sys!(SYS_sched_getscheduler, 0), Ok((SCHED_FIFO | RESET_ON_FORK) as usize));
    assert_eq!(Attr::get().flags & FLAG_RESET_ON_FORK, FLAG_RESET_ON_FORK);
    aside(|| assert_eq!(sys!(SYS_sched_getscheduler, 0), Ok(SCHED_OTHER as usize)));
    set_policy(SCHED_FIFO, 5).unwrap();
    aside(|| assert_eq!(sys!(SYS_sched_getscheduler, 0), Ok(SCHED_FIFO as usize)));
    let eager = Attr { nice: -5, flags: FLAG_RESET_ON_FORK, ..Attr::default() };
    eager.set().unwrap();
    assert_eq!(Attr::get().nice, -5);
    aside(|| assert_eq!((Attr::get().nice, Attr::get().flags & FLAG_RESET_ON_FORK), (0, 0)));
}

fn attributes_come_back() {
    let attr = Attr { policy: SCHED_BATCH as u32, nice: 7, runtime: 5_000_000, ..Attr::default() };
    attr.set().unwrap();
    assert_eq!(Attr::get(), attr);
    Attr { runtime: 1, ..attr }.set().unwrap();
    assert_eq!(Attr::get().runtime, 100_000, "the shortest slice");
    Attr { nice: 100, ..attr }.set().unwrap();
    assert_eq!(Attr::get().nice, 19);
    Attr { policy: SCHED_RR as u32, priority: 9, ..Attr::default() }.set().unwrap();
    assert_eq!((Attr::get().policy, Attr::get().priority), (SCHED_RR as u32, 9));
}

fn keep_flags() {
    set_policy(SCHED_RR, 3).unwrap();
    Attr { policy: 0, priority: 8, flags: FLAG_KEEP_POLICY, ..Attr::default() }.set().unwrap();
    assert_eq!((Attr::get().policy, Attr::get().priority), (SCHED_RR as u32, 8));
    Attr { policy: SCHED_FIFO as u32, flags: FLAG_KEEP_PARAMS, ..Attr::default() }.set().unwrap();
    assert_eq!((Attr::get().policy, Attr::get().priority), (SCHED_RR as u32, 8), "the policy is one of them");
    assert_eq!(Attr { flags: FLAG_KEEP_PARAMS, ..Attr::default() }.set(), Err(EINVAL));
}

fn sizes() {
    let mut long = [0u64; 64];
    long[..6].copy_from_slice(&Attr::default().words(512));
    assert_eq!(sys!(SYS_sched_setattr, 0, &long, 0), Ok(0), "zeroes beyond what is known");
    long[20] = 1;
    assert_eq!(sys!(SYS_sched_setattr, 0, &long, 0), Err(E2BIG));
    assert!((FIRST_SIZE..512).contains(&(long[0] as u32)), "the known size is told");
    assert_eq!(sys!(SYS_sched_setattr, 0, &Attr::default().words(47), 0), Err(E2BIG));
    assert_eq!(sys!(SYS_sched_setattr, 0, &Attr::default().words(0), 0), Ok(0));
    assert_eq!(sys!(SYS_sched_getattr, 0, &mut long, 47, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_getattr, 0, &mut long, 4097, 0), Err(EINVAL));
}

fn bad_attributes() {
    let bad = |attr: Attr| assert_eq!(attr.set(), Err(EINVAL), "{attr:?}");
    bad(Attr { policy: 4, ..Attr::default() });
    bad(Attr { policy: SCHED_FIFO as u32, ..Attr::default() });
    bad(Attr { policy: SCHED_FIFO as u32, priority: 100, ..Attr::default() });
    bad(Attr { priority: 1, ..Attr::default() });
    bad(Attr { flags: 1 << 40, ..Attr::default() });
    bad(Attr { policy: u32::MAX, ..Attr::default() });
    assert_eq!(sys!(SYS_sched_setattr, 0, &Attr::default().words(FIRST_SIZE), 1), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_setattr, -1, &Attr::default().words(FIRST_SIZE), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_setattr, 0x3fff_fff0, &Attr::default().words(FIRST_SIZE), 0), Err(ESRCH));
    assert_eq!(sys!(SYS_sched_setattr, 0, BAD, 0), Err(EFAULT));
}

fn what_needs_privilege() {
    set_policy(SCHED_OTHER | RESET_ON_FORK, 0).unwrap();
    aside(|| {
        Attr { flags: FLAG_RESET_ON_FORK, ..Attr::default() }.set().unwrap();
        drop_root();
        assert_eq!(Attr::default().set(), Err(EPERM), "the flag cannot be taken back");
        assert_eq!(set_policy(SCHED_FIFO | RESET_ON_FORK, 1), Err(EPERM));
        Attr { nice: 5, flags: FLAG_RESET_ON_FORK, ..Attr::default() }.set().unwrap();
        assert_eq!(Attr { nice: 4, flags: FLAG_RESET_ON_FORK, ..Attr::default() }.set(), Err(EPERM));
        set_policy(SCHED_IDLE | RESET_ON_FORK, 0).unwrap();
        assert_eq!(set_policy(SCHED_OTHER | RESET_ON_FORK, 0), Err(EPERM));
    });
}
