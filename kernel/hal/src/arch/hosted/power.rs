//! The process ends where a machine would.

pub fn power_off() -> ! {
    std::process::exit(0)
}

pub fn reboot() -> ! {
    std::process::exit(0)
}

pub fn halt() -> ! {
    std::process::abort()
}

pub fn stop(message: &str) -> ! {
    panic!("{message}")
}
