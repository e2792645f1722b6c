//! Names and files: making, finding, renaming, removing.

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use vfs::Whence;

use crate::env::{Env, read, write};

#[test]
fn what_is_written_is_read_back() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    assert_eq!(write(&file, b"hello").unwrap(), 5);
    assert_eq!(read(&file, 10).unwrap(), b"");
    assert_eq!(vfs::rw::lseek(&file, 1, Whence::Set), Ok(1));
    assert_eq!(read(&file, 3).unwrap(), b"ell");
    assert_eq!(env.stat("/f").unwrap().st_size, 5);
}

#[test]
fn append_goes_to_the_end_wherever_the_position_is() {
    let env = Env::new();
    write(&env.create("/f").unwrap(), b"0123").unwrap();
    let file = env.open("/f", OpenFlags::RDWR | OpenFlags::APPEND, 0).unwrap();
    write(&file, b"45").unwrap();
    assert_eq!(file.pos(), 6);
    vfs::rw::lseek(&file, 0, Whence::Set).unwrap();
    assert_eq!(read(&file, 10).unwrap(), b"012345");
}

#[test]
fn sparse_files_have_data_and_holes() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    vfs::rw::lseek(&file, 3 * 4096 + 5, Whence::Set).unwrap();
    write(&file, b"x").unwrap();
    assert_eq!(vfs::rw::lseek(&file, 0, Whence::Data), Ok(3 * 4096));
    assert_eq!(vfs::rw::lseek(&file, 0, Whence::Hole), Ok(0));
    assert_eq!(vfs::rw::lseek(&file, 3 * 4096, Whence::Hole), Ok(3 * 4096 + 6));
    assert_eq!(vfs::rw::lseek(&file, 5 * 4096, Whence::Data), Err(Errno::ENXIO));
    assert_eq!(env.stat("/f").unwrap().st_blocks, 8);
}

#[test]
fn truncate_cuts_and_grows_with_zeroes() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    write(&file, &[7; 5000]).unwrap();
    vfs::attr::ftruncate(&file, 10, u64::MAX).unwrap();
    vfs::attr::ftruncate(&file, 20, u64::MAX).unwrap();
    vfs::rw::lseek(&file, 8, Whence::Set).unwrap();
    assert_eq!(read(&file, 100).unwrap(), [7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(vfs::attr::ftruncate(&file, 100, 50), Err(Errno::EFBIG));
    assert_eq!(vfs::attr::ftruncate(&file, -1, 50), Err(Errno::EINVAL));
}

#[test]
fn opening_with_o_trunc_empties() {
    let env = Env::new();
    write(&env.create("/f").unwrap(), b"abc").unwrap();
    env.open("/f", OpenFlags::WRONLY | OpenFlags::TRUNC, 0).unwrap();
    assert_eq!(env.stat("/f").unwrap().st_size, 0);
}

#[test]
fn a_removed_name_is_gone_while_its_file_lives_on() {
    let env = Env::new();
    let file = env.create("/f").unwrap();
    write(&file, b"still here").unwrap();
    env.unlink("/f").unwrap();
    assert_eq!(env.stat("/f").unwrap_err(), Errno::ENOENT);
    assert_eq!(file.inode().nlink(), 0);
    vfs::rw::lseek(&file, 0, Whence::Set).unwrap();
    assert_eq!(read(&file, 100).unwrap(), b"still here");
    assert_eq!(file.display_name(), b"/f (deleted)");
    env.create("/f").unwrap();
    assert_eq!(env.stat("/f").unwrap().st_size, 0);
}

#[test]
fn links_count() {
    let env = Env::new();
    env.create("/a").unwrap();
    env.mkdir("/d").unwrap();
    env.link("/a", "/d/b").unwrap();
    assert_eq!(env.stat("/a").unwrap().st_nlink, 2);
    assert_eq!(env.stat("/a").unwrap().st_ino, env.stat("/d/b").unwrap().st_ino);
    assert_eq!(env.link("/d", "/e"), Err(Errno::EPERM));
    assert_eq!(env.link("/a", "/d/b"), Err(Errno::EEXIST));
    env.unlink("/a").unwrap();
    assert_eq!(env.stat("/d/b").unwrap().st_nlink, 1);
    assert_eq!(env.stat("/d").unwrap().st_nlink, 2);
    assert_eq!(env.stat("/").unwrap().st_nlink, 3);
}

#[test]
fn rename_moves_replaces_and_keeps_open_names_right() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.mkdir("/d/sub").unwrap();
    let file = env.create("/d/sub/f").unwrap();
    env.chdir("/d/sub").unwrap();
    env.mkdir("/e").unwrap();
    env.rename("/d/sub", "/e/moved").unwrap();
    assert_eq!(env.cwd(), "/e/moved");
    assert_eq!(file.display_name(), b"/e/moved/f");
    assert_eq!(env.stat("/d/sub").unwrap_err(), Errno::ENOENT);
    assert!(env.stat("f").is_ok());
    assert_eq!(env.stat("..").unwrap().st_ino, env.stat("/e").unwrap().st_ino);
    assert_eq!(env.stat("/d").unwrap().st_nlink, 2);
    assert_eq!(env.stat("/e").unwrap().st_nlink, 3);
    write(&env.create("/target").unwrap(), b"old").unwrap();
    env.rename("f", "/target").unwrap();
    assert_eq!(env.stat("/target").unwrap().st_size, 0);
    assert!(env.list("/e/moved").is_empty());
}

#[test]
fn rename_refuses_what_linux_refuses() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.mkdir("/d/e").unwrap();
    env.create("/f").unwrap();
    env.create("/d/g").unwrap();
    assert_eq!(env.rename("/d", "/d/e/x"), Err(Errno::EINVAL));
    assert_eq!(env.rename("/d/e", "/d"), Err(Errno::ENOTEMPTY));
    assert_eq!(env.rename("/f", "/d"), Err(Errno::EISDIR));
    assert_eq!(env.rename("/d", "/f"), Err(Errno::ENOTDIR));
    assert_eq!(env.rename("/d/e/.", "/x"), Err(Errno::EBUSY));
    assert_eq!(env.rename("/nothing", "/x"), Err(Errno::ENOENT));
    assert_eq!(env.rename("/f/", "/x"), Err(Errno::ENOTDIR));
    assert_eq!(env.rename2("/f", "/d/g", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    env.mkdir("/h").unwrap();
    env.mkdir("/h/i").unwrap();
    assert_eq!(env.rename("/d/e", "/h"), Err(Errno::ENOTEMPTY));
    env.rename("/d/e", "/h/i").unwrap();
}

#[test]
fn exchange_swaps_and_whiteout_leaves_a_device() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.create("/d/x").unwrap();
    write(&env.create("/f").unwrap(), b"f").unwrap();
    env.rename2("/d", "/f", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(env.stat("/d").unwrap().st_size, 1);
    assert_eq!(env.list("/f"), ["x"]);
    env.rename2("/d", "/w", RenameFlags::WHITEOUT).unwrap();
    let white = env.stat("/d").unwrap();
    assert_eq!((white.st_mode & 0o170000, white.st_rdev), (0o020000, 0));
    assert_eq!(env.rename2("/w", "/none", RenameFlags::EXCHANGE), Err(Errno::ENOENT));
}

#[test]
fn tmpfiles_have_no_name_until_linked() {
    use abi::fs::AtFlags;
    use vfs::{At, FdFlags};
    let env = Env::new();
    env.mkdir("/d").unwrap();
    let file = env.open("/d", OpenFlags::TMPFILE | OpenFlags::RDWR, 0o600).unwrap();
    write(&file, b"data").unwrap();
    assert!(env.list("/d").is_empty());
    let fd = env.files.insert(file, 0, 100, FdFlags::empty()).unwrap();
    let (old, new) = ((At::Fd(fd), &b""[..]), (At::Cwd, &b"/d/named"[..]));
    vfs::namespace::linkat(&env.ctx(), old, new, AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(env.stat("/d/named").unwrap().st_nlink, 1);
    let file = env.open("/d", OpenFlags::TMPFILE | OpenFlags::RDWR | OpenFlags::EXCL, 0o600).unwrap();
    let fd = env.files.insert(file, 0, 100, FdFlags::empty()).unwrap();
    let (old, new) = ((At::Fd(fd), &b""[..]), (At::Cwd, &b"/d/no"[..]));
    let linked = vfs::namespace::linkat(&env.ctx(), old, new, AtFlags::EMPTY_PATH);
    assert_eq!(linked, Err(Errno::ENOENT));
    assert_eq!(env.open("/d", OpenFlags::TMPFILE, 0).unwrap_err(), Errno::EINVAL);
}

#[test]
fn listing_is_complete_while_entries_come_and_go() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    for i in 0..500 {
        env.create(&format!("/d/f{i}")).unwrap();
    }
    assert_eq!(env.list("/d").len(), 500);
    for i in (0..500).step_by(2) {
        env.unlink(&format!("/d/f{i}")).unwrap();
    }
    for i in 500..900 {
        env.create(&format!("/d/f{i}")).unwrap();
    }
    assert_eq!(env.list("/d").len(), 650);
    assert!(env.stat("/d/f501").is_ok());
    assert_eq!(env.rmdir("/d"), Err(Errno::ENOTEMPTY));
}

#[test]
fn a_removed_directory_stays_empty() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.chdir("/d").unwrap();
    env.rmdir("/d").unwrap();
    assert_eq!(env.create("f").unwrap_err(), Errno::ENOENT);
    assert_eq!(env.mkdir("x"), Err(Errno::ENOENT));
    assert_eq!(vfs::namespace::getcwd(&env.fs), Err(Errno::ENOENT));
    assert_eq!(env.stat("..").unwrap().st_ino, env.stat("/").unwrap().st_ino);
}

#[test]
fn xattrs_follow_their_namespaces() {
    use vfs::inode::XattrMode;
    use vfs::xattr;
    let env = Env::new();
    env.create("/f").unwrap();
    env.chmod("/f", 0o666).unwrap();
    let path = env.walk("/f").unwrap();
    let user = env.as_user(1000);
    xattr::set(&path, b"user.a", b"1", XattrMode::Any, &user.cred).unwrap();
    xattr::set(&path, b"trusted.b", b"2", XattrMode::Any, &env.cred).unwrap();
    assert_eq!(xattr::set(&path, b"trusted.b", b"", XattrMode::Any, &user.cred), Err(Errno::EPERM));
    assert_eq!(xattr::get(&path, b"trusted.b", &user.cred), Err(Errno::ENODATA));
    assert_eq!(xattr::get(&path, b"user.a", &user.cred).unwrap(), b"1");
    assert_eq!(xattr::set(&path, b"user.a", b"", XattrMode::Create, &env.cred), Err(Errno::EEXIST));
    assert_eq!(xattr::set(&path, b"user.z", b"", XattrMode::Replace, &env.cred), Err(Errno::ENODATA));
    assert_eq!(xattr::set(&path, b"other.z", b"", XattrMode::Any, &env.cred), Err(Errno::EOPNOTSUPP));
    assert_eq!(xattr::list(&path, &user.cred).unwrap(), b"user.a\0");
    assert_eq!(xattr::list(&path, &env.cred).unwrap(), b"trusted.b\0user.a\0");
    xattr::remove(&path, b"user.a", &user.cred).unwrap();
    assert_eq!(xattr::remove(&path, b"user.a", &user.cred), Err(Errno::ENODATA));
}

#[test]
fn memfds_can_be_sealed() {
    let env = Env::new();
    let file = tmpfs::create_memfd(b"x", 2, &env.cred).unwrap();
    assert_eq!(file.display_name(), b"/memfd:x (deleted)");
    write(&file, b"1234").unwrap();
    assert_eq!(file.ops().seals(&file, Some(4)), Ok(4));
    assert_eq!(write(&file, b"5"), Err(Errno::EPERM));
    assert_eq!(vfs::attr::ftruncate(&file, 10, u64::MAX), Err(Errno::EPERM));
    vfs::attr::ftruncate(&file, 2, u64::MAX).unwrap();
    assert_eq!(file.ops().seals(&file, Some(8 | 1)), Ok(13));
    assert_eq!(file.ops().seals(&file, Some(2)), Err(Errno::EPERM));
    let plain = tmpfs::create_memfd(b"y", 0, &env.cred).unwrap();
    assert_eq!(plain.ops().seals(&plain, Some(2)), Err(Errno::EPERM));
}
