//! What this program does when a test executes it again: small jobs seen from a new process.

use std::ffi::CString;

use crate::kit::cstr;
use crate::sys;

/// First argument of such a run.
pub const MARK: &str = "__helper";

/// The path of this program.
pub fn me() -> CString {
    cstr(std::fs::read_link("/proc/self/exe").expect("/proc/self/exe").to_string_lossy().into_owned())
}

/// Runs the job `args[0]` and exits with its result.
pub fn main(args: &[String]) -> ! {
    let text = |i: usize| args.get(i).map(String::as_str).unwrap_or("");
    let number = |i: usize| text(i).parse::<i64>().unwrap_or(-1);
    let code = match text(0) {
        // exit N
        "exit" => number(1) as i32,
        // args A B...: prints the arguments, one in brackets each
        "args" => {
            let line: String = args[1..].iter().map(|a| format!("[{a}]")).collect();
            let _ = crate::kit::write(1, line.as_bytes());
            0
        }
        // count FILE WORD: writes the number of bytes of the standard input and WORD to FILE
        "count" => {
            let mut bytes = Vec::new();
            let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes);
            let _ = std::fs::write(text(1), format!("{} {}\n", bytes.len(), text(2)));
            0
        }
        // env: prints the environment
        "env" => {
            let line: String = std::env::vars().map(|(k, v)| format!("[{k}={v}]")).collect();
            let _ = crate::kit::write(1, line.as_bytes());
            0
        }
        // fd N: 0 when descriptor N is open
        "fd" => i32::from(crate::sys!(libc::SYS_fcntl, number(1), libc::F_GETFD).is_err()),
        // action SIG: 0 default, 1 ignored, 2 handled
        "action" => match sys::current_action(number(1) as i32) {
            libc::SIG_DFL => 0,
            libc::SIG_IGN => 1,
            _ => 2,
        },
        // dumpable: what prctl(2) says
        "dumpable" => crate::sys!(libc::SYS_prctl, libc::PR_GET_DUMPABLE).map_or(-1, |is| is as i32),
        // port N: writes to an I/O port
        "port" => {
            sys::out_byte(number(1) as u16, 0);
            0
        }
        // hold FD: waits for the end of FD's writers
        "hold" => {
            let _ = crate::kit::read_vec(number(1) as i32, 1);
            0
        }
        // blocked SIG: 1 when it is blocked
        "blocked" => i32::from(crate::kit::sigmask(libc::SIG_BLOCK, &[]) & 1 << (number(1) - 1) != 0),
        // pending SIG: 1 when it is pending
        "pending" => i32::from(crate::kit::pending() & 1 << (number(1) - 1) != 0),
        // ended FD SIG: waits for the end of FD's writers, then for a SIGCHLD that is blocked; 1 when SIG is pending too
        "ended" => {
            let _ = crate::kit::read_vec(number(1) as i32, 1);
            while crate::kit::pending() & 1 << (libc::SIGCHLD - 1) == 0 {
                if crate::kit::pending() & 1 << (number(2) - 1) != 0 {
                    sys::exit(1);
                }
                crate::kit::nap(1);
            }
            i32::from(crate::kit::pending() & 1 << (number(2) - 1) != 0)
        }
        // auxv: 0 when the vector is what the ABI promises
        "auxv" => auxv(),
        // getsid, getpgid compared with a number
        "pgid" => i32::from(crate::sys!(libc::SYS_getpgid, 0) != Ok(number(1) as usize)),
        "euid" => crate::sys!(libc::SYS_geteuid).unwrap() as i32,
        // comm: prints the process's name
        "comm" => {
            let _ = crate::kit::write(1, crate::kit::slurp("/proc/self/comm").trim().as_bytes());
            0
        }
        // pause: sleeps until killed
        "pause" => {
            crate::kit::nap(30_000);
            0
        }
        // execfd: prints the file that a registered format was given as a descriptor
        "execfd" => {
            let bytes = crate::kit::read_vec(sys::auxv(libc::AT_EXECFD) as i32, 4096).unwrap_or_default();
            i32::from(crate::kit::write(1, &bytes).is_err())
        }
        // flags: AT_FLAGS
        "flags" => sys::auxv(libc::AT_FLAGS) as i32,
        "argc" => args.len() as i32 - 1,
        _ => 99,
    };
    sys::exit(code)
}

fn auxv() -> i32 {
    use libc::*;
    let random = sys::auxv(AT_RANDOM) as usize;
    let checks = [
        sys::auxv(AT_PAGESZ) == 4096,
        sys::auxv(AT_CLKTCK) == 100,
        sys::auxv(AT_PHENT) == 56,
        sys::auxv(AT_PHNUM) > 0,
        sys::auxv(AT_ENTRY) != 0,
        sys::auxv(AT_UID) == 0 && sys::auxv(AT_EGID) == 0,
        sys::auxv(AT_SECURE) == 0,
        random != 0 && sys::bytes_at(random, 16) != [0; 16],
        sys::auxv(AT_EXECFN) != 0,
        sys::bytes_at(sys::auxv(AT_PLATFORM) as usize, 7) == b"x86_64\0",
        sys::auxv(AT_SYSINFO_EHDR).trailing_zeros() >= 12 && sys::auxv(AT_SYSINFO_EHDR) != 0,
        sys::bytes_at(sys::auxv(AT_PHDR) as usize, 4).len() == 4,
    ];
    checks.iter().position(|ok| !ok).map_or(0, |i| i as i32 + 1)
}
