//! More CPUs: each is a host thread that never ends.

pub fn start_all(max: usize, entry: fn() -> !) -> usize {
    let before = super::cpu::nr_online();
    for _ in before..max {
        // A machine that cannot have another CPU runs with those it has.
        let _handle = std::thread::Builder::new().spawn(move || {
            super::irq::save_and_disable();
            entry()
        });
    }
    while super::cpu::nr_online() < max {
        std::thread::yield_now();
    }
    super::cpu::nr_online()
}
