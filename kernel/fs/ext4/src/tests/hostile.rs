//! Mutated images through the whole file system: an error or an answer, never a panic or a hang.

use abi::fs::OpenFlags;
use hal::uio::Src;
use vfs::superblock::SbFlags;

use super::env::{Env, Random, image, pattern};

fn exercise(env: &Env) {
    for dir in ["/", "/dir"] {
        for name in env.list(dir).unwrap_or_default() {
            let path = format!("{dir}/{name}");
            let _ = env.stat(&path);
            if let Ok(file) = env.open(&path, OpenFlags::RDWR) {
                let mut byte = [0; 600];
                let _ = vfs::rw::pread(&file, &mut hal::uio::Dest::kernel(&mut byte), 3);
                let _ = vfs::rw::pwrite(&file, &mut Src::kernel(&[5; 100]), 2000, u64::MAX);
                let _ = vfs::attr::ftruncate(&file, 1000, u64::MAX);
            }
            if let Ok(path) = env.walk(&path) {
                let _ = vfs::xattr::list(&path, &security::Cred::root());
            }
        }
    }
    let _ = env.put("/dir/new", &pattern(5000, 1));
    let _ = env.mkdir("/dir/sub");
    let _ = env.unlink("/dir/file3");
    let _ = env.sync();
}

#[test]
fn mutated_images_mount_with_an_error_or_work() {
    let Some(original) = image(&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-N", "64"], 2 << 20)
    else {
        return;
    };
    let mut env = Env::new(&original);
    env.mkdir("/dir").unwrap();
    for nr in 0..50 {
        env.put(&format!("/dir/file{nr}"), &pattern(nr * 100, nr as u64)).unwrap();
    }
    env.symlink(&"y".repeat(80), "/dir/link").unwrap();
    let original = env.unmount();
    let targets: Vec<usize> = (0..original.len()).filter(|&at| original[at] != 0 && at >= 1024).collect();
    let mut random = Random(11);
    let mut mounted = 0;
    for _ in 0..150 {
        let mut bytes = original.clone();
        for _ in 0..1 + random.below(8) {
            let at = targets[random.below(targets.len().min(6000) as u64) as usize];
            bytes[at] = random.next() as u8;
        }
        let flags = if random.below(4) == 0 { SbFlags::RDONLY } else { SbFlags::empty() };
        if let Ok(env) = Env::try_new(&bytes, flags) {
            mounted += 1;
            exercise(&env);
        }
    }
    assert!(mounted > 20, "{mounted} mounted");
}
