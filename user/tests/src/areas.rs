// The areas, in the order in which they run: what others rest on comes first.
mod acl;
mod adjtime;
mod aio;
mod binfmt;
mod block;
mod cgroup;
mod clockset;
mod clone;
mod coredump;
mod efault;
mod epoll;
mod eventfd;
mod exec;
mod ext4;
mod ext4aio;
mod fanotify;
mod fat;
mod fork;
mod fs;
mod fsdir;
mod fsio;
mod fsmeta;
mod full;
mod futex;
mod futexpi;
mod handle;
mod hugescan;
mod hugetlb;
mod idmap;
mod inet;
mod inotify;
mod ioprio;
mod ipc;
mod jobs;
mod ksm;
mod lease;
mod mapcount;
mod mem;
mod memcalls;
mod memviews;
mod mm;
mod mmfile;
mod mountfd;
mod mountns;
mod mounts;
mod mremap;
mod netlink;
mod ns;
mod packet;
mod packetfilter;
mod packetring;
mod perf;
mod pidfd;
mod physmem;
mod pipe;
mod pkeys;
mod poll;
mod ports;
mod proc;
mod proctask;
mod ptimer;
mod ptrace;
mod rseq;
mod rtnetlink;
mod scheduling;
mod seccomp;
mod segcode;
mod segment;
mod signal;
mod signalfd;
mod sigwait;
mod nvme;
mod offline;
mod overlay;
mod overlayindex;
mod sockdiag;
mod swap;
mod sysctl;
mod sysinfo;
mod syslog;
mod tcp;
mod thp;
mod thread;
mod time;
mod timerfd;
mod tty;
mod udp;
mod uffd;
mod unix;
mod unixopt;
mod uprobe;
mod uring;
mod uringbuffers;
mod uringrules;
mod uringwait;
mod wait;

const AREAS: &[&[harness::Test]] = &[
    fat::TESTS,
    fork::TESTS,
    wait::TESTS,
    clone::TESTS,
    exec::TESTS,
    binfmt::TESTS,
    cgroup::TESTS,
    signal::TESTS,
    sigwait::TESTS,
    proctask::TESTS,
    ptimer::TESTS,
    mm::TESTS,
    mmfile::TESTS,
    mremap::TESTS,
    mapcount::TESTS,
    memcalls::TESTS,
    memviews::TESTS,
    pkeys::TESTS,
    uffd::TESTS,
    thp::TESTS,
    hugescan::TESTS,
    hugetlb::TESTS,
    fs::TESTS,
    fsdir::TESTS,
    fsmeta::TESTS,
    full::TESTS,
    acl::TESTS,
    fsio::TESTS,
    mountfd::TESTS,
    mountns::TESTS,
    mounts::TESTS,
    block::TESTS,
    physmem::TESTS,
    pipe::TESTS,
    poll::TESTS,
    ports::TESTS,
    epoll::TESTS,
    eventfd::TESTS,
    timerfd::TESTS,
    signalfd::TESTS,
    fanotify::TESTS,
    inotify::TESTS,
    lease::TESTS,
    adjtime::TESTS,
    aio::TESTS,
    uring::TESTS,
    uringwait::TESTS,
    uringbuffers::TESTS,
    uringrules::TESTS,
    unix::TESTS,
    unixopt::TESTS,
    uprobe::TESTS,
    idmap::TESTS,
    inet::TESTS,
    tcp::TESTS,
    udp::TESTS,
    netlink::TESTS,
    rtnetlink::TESTS,
    sockdiag::TESTS,
    packet::TESTS,
    packetfilter::TESTS,
    packetring::TESTS,
    tty::TESTS,
    jobs::TESTS,
    ksm::TESTS,
    ptrace::TESTS,
    segcode::TESTS,
    segment::TESTS,
    rseq::TESTS,
    seccomp::TESTS,
    coredump::TESTS,
    proc::TESTS,
    ns::TESTS,
    ipc::TESTS,
    perf::TESTS,
    pidfd::TESTS,
    handle::TESTS,
    sysinfo::TESTS,
    sysctl::TESTS,
    time::TESTS,
    clockset::TESTS,
    scheduling::TESTS,
    ioprio::TESTS,
    syslog::TESTS,
    thread::TESTS,
    futex::TESTS,
    futexpi::TESTS,
    efault::TESTS,
    mem::TESTS,
    nvme::TESTS,
    offline::TESTS,
    overlay::TESTS,
    overlayindex::TESTS,
    ext4::TESTS,
    ext4aio::TESTS,
    swap::TESTS,
];
