//! The virtio console: a terminal and channels to this machine, on Keel and, where it can be had, on Linux.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::Platform;
use super::disk::boot;
use super::tally::{Tally, Verdict};
use crate::guest::GuestArgs;
use crate::{linux, paths};

const NAME: &str = "org.keel.test";

/// What the guest does, and says.
const COMMAND: &str = "cd /dev; ls -d hvc0 vport0p0 vport0p1 vport0p2; cat /sys/class/virtio-ports/vport0p1/name; \
    (exec 6< vport0p0) 2>&1 | grep -o 'No such.*'; \
    exec 5<> vport0p1; (exec 6< vport0p1) 2>&1 | grep -o '[A-Za-z]* or resource busy'; \
    read line <&5; echo \"got $line\"; echo 'hello, host' >&5; head -c 100000 /dev/zero >&5; echo end >&5; \
    head -c 70000 <&5 | wc -c; echo bye >&5; wc -c <&5; exec 5<&-; \
    cat vport0p2 | wc -c; \
    stty -F hvc0 -a 2> /dev/null | grep -o 'icanon'; echo line > hvc0; echo 'to the console' > /dev/console; \
    stty -F hvc0 cols 100 rows 40; stty -F hvc0 size";
const SAID: &str = "hvc0\nvport0p0\nvport0p1\nvport0p2\norg.keel.test\nNo such device or address\nDevice or resource busy\n\
    got hello, guest\n70000\n0\n0\nicanon\n40 100\n";

/// Runs the test, once with a console on PCI.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    let name = format!("disk/{platform}/virtio console");
    if !tally.wants(&name) {
        return Ok(());
    }
    let dir = paths::make_dir(&paths::logs()?.join(format!("vconsole-{}-{platform}", std::process::id())))?;
    let verdict = Verdict::of(tell(platform, &dir));
    let _ = fs::remove_dir_all(&dir);
    tally.note(&name, verdict);
    Ok(())
}

fn tell(platform: &Platform, dir: &Path) -> Result<()> {
    let has_linux = platform.smp == 1 && linux::modules().is_ok();
    let kernels = if has_linux { &["linux", "keel"][..] } else { &["keel"] };
    for kernel in kernels {
        let (socket, log) = (dir.join(format!("{kernel}.socket")), dir.join(format!("{kernel}.log")));
        let listener = UnixListener::bind(&socket)?;
        let guest = GuestArgs {
            kernel: (*kernel).to_owned(),
            debug: platform.debug && *kernel == "keel",
            append: "console=hvc0".to_owned(),
            extra: [
                "-device".to_owned(),
                "virtio-serial-pci".to_owned(),
                "-chardev".to_owned(),
                format!("file,id=vc0,path={}", log.display()),
                "-device".to_owned(),
                "virtconsole,chardev=vc0".to_owned(),
                "-chardev".to_owned(),
                format!("socket,id=vp1,path={}", socket.display()),
                "-device".to_owned(),
                format!("virtserialport,chardev=vp1,nr=1,name={NAME}"),
                "-chardev".to_owned(),
                "socket,id=vp2,server=on,wait=off,host=127.0.0.1,port=0".to_owned(),
                "-device".to_owned(),
                "virtserialport,chardev=vp2,nr=2,name=nobody".to_owned(),
            ]
            .into(),
            ..platform.guest("tiny", None)
        };
        let host = thread::spawn(move || talk(&listener));
        let said = boot(&guest, COMMAND)?;
        ensure!(said == SAID, "{kernel} said:\n{said}instead of:\n{SAID}");
        host.join().map_err(|_| anyhow!("the host's side failed"))?.context(*kernel)?;
        let shown = fs::read_to_string(&log)?;
        for wanted in ["Run /init as init process", "line\r\n", "to the console\r\n"] {
            ensure!(shown.contains(wanted), "{kernel}: the terminal did not show {wanted:?}:\n{shown}");
        }
    }
    Ok(())
}

/// The host's side of the channel: greets, takes all, sends much, goes.
fn talk(listener: &UnixListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(100)))?;
    stream.write_all(b"hello, guest\n")?;
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    while !got.ends_with(b"end\n") {
        let len = stream.read(&mut chunk)?;
        ensure!(len > 0, "the guest has gone after {} bytes", got.len());
        got.extend_from_slice(&chunk[..len]);
    }
    ensure!(got.len() == 12 + 100_000 + 4 && got.starts_with(b"hello, host\n\0"), "{} bytes came", got.len());
    stream.write_all(&[b'x'; 70_000])?;
    let mut last = [0; 4];
    stream.read_exact(&mut last)?;
    ensure!(last == *b"bye\n", "the guest said {last:?}");
    Ok(())
}
