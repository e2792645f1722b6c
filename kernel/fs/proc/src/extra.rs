//! Files whose content only floors can make that this crate must not know: sockets, System V objects, terminals.

use abi::Result;
use hal::sync::Once;
use vfs::put;
use vfs::text::Text;

/// A file that another crate fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// /proc/net/netlink.
    NetNetlink,
    /// /proc/net/packet.
    NetPacket,
    /// /proc/net/unix.
    NetUnix,
    /// /proc/sysvipc/msg.
    SysvMsg,
    /// /proc/sysvipc/sem.
    SysvSem,
    /// /proc/sysvipc/shm.
    SysvShm,
    /// /proc/sys/kernel/pty/nr, a number.
    PtyCount,
    /// /proc/partitions.
    Partitions,
    /// /proc/diskstats.
    DiskStats,
}

const COUNT: usize = 9;

type Rows = fn(&mut Text) -> Result<()>;

static ROWS: [Once<Rows>; COUNT] = [const { Once::new() }; COUNT];

/// Makes `rows` append the content of `what` after its headline. Once for each.
pub fn provide(what: Extra, rows: Rows) {
    if let Some(place) = ROWS.get(what as usize) {
        place.call_once(|| rows);
    }
}

/// The headline, as Linux spells it.
fn headline(what: Extra) -> &'static str {
    match what {
        Extra::NetNetlink => {
            "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
        }
        Extra::NetPacket => "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n",
        Extra::NetUnix => "Num       RefCount Protocol Flags    Type St Inode Path\n",
        Extra::SysvMsg => {
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
             stime      rtime      ctime\n"
        }
        Extra::SysvSem => {
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
        }
        Extra::SysvShm => {
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
             atime      dtime      ctime                   rss                  swap\n"
        }
        Extra::Partitions => "major minor  #blocks  name\n\n",
        Extra::PtyCount | Extra::DiskStats => "",
    }
}

pub(crate) fn show(what: Extra, out: &mut Text) -> Result<()> {
    put!(out, "{}", headline(what));
    match ROWS.get(what as usize).and_then(|place| place.get()) {
        Some(rows) => rows(out),
        None if what == Extra::PtyCount => {
            out.push(b"0\n");
            Ok(())
        }
        None => Ok(()),
    }
}
