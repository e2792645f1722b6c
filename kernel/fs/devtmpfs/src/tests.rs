//! /dev as a program would see it.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use hal::uio::{Dest, Src};
use security::Cred;
use vfs::open::{How, open};
use vfs::{At, FdTable, FsContext, MountNs, WalkContext};

use super::*;

#[test]
fn devices_appear_and_do_what_their_names_say() {
    init().unwrap();
    let mount = Mount::new(INSTANCE.get().unwrap().mount.root(), b"dev", MountFlags::empty());
    let fs = FsContext::new(&MountNs::new(&mount), &Path::root_of(&mount));
    let (files, cred) = (FdTable::new().unwrap(), Arc::new(Cred::root()));
    let ctx = WalkContext { fs: &fs, files: &files, cred: &cred };
    let open = |name: &str| open(&ctx, At::Cwd, name.as_bytes(), &How::new(OpenFlags::RDWR.bits(), 0)?);
    let mut buf = [1; 8];
    let null = open("/null").unwrap();
    assert_eq!(vfs::rw::read(&null, &mut Dest::kernel(&mut buf)), Ok(0));
    assert_eq!(vfs::rw::write(&null, &mut Src::kernel(b"gone"), u64::MAX), Ok(4));
    let zero = open("/zero").unwrap();
    assert_eq!(vfs::rw::read(&zero, &mut Dest::kernel(&mut buf)), Ok(8));
    assert_eq!(buf, [0; 8]);
    let full = open("/full").unwrap();
    assert_eq!(vfs::rw::write(&full, &mut Src::kernel(b"x"), u64::MAX), Err(Errno::ENOSPC));
    let random = open("/urandom").unwrap();
    let mut big = [0; 600];
    assert_eq!(vfs::rw::read(&random, &mut Dest::kernel(&mut big)), Ok(600));
    assert!(big.iter().any(|&byte| byte != big[0]));
    let kmsg = open("/kmsg").unwrap();
    let said = b"<12>hello \\ there";
    vfs::rw::write(&kmsg, &mut Src::kernel(said), u64::MAX).unwrap();
    let mut line = [0; 200];
    let len = vfs::rw::read(&kmsg, &mut Dest::kernel(&mut line)).unwrap();
    let line = core::str::from_utf8(&line[..len]).unwrap();
    assert!(line.starts_with("12,") && line.ends_with(",-;hello \\x5c there\n"), "{line}");
    dev::add_node("input/event0", DeviceKind::Char, (13, 64), 0o600).unwrap();
    assert_eq!(open("/input/event0").unwrap_err(), Errno::ENXIO);
    dev::remove_node("input/event0");
    assert_eq!(open("/input/event0").unwrap_err(), Errno::ENOENT);
}
