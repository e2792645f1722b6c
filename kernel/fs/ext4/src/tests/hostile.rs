//! Mutated images through the whole file system: an error or an answer, never a panic or a hang.

use abi::fs::OpenFlags;
use hal::uio::Src;
use vfs::superblock::SbFlags;

use super::env::{Env, Random, alone, image, pattern};

fn exercise(env: &Env) {
    for dir in ["/", "/dir", "/dir0", "/dir1"] {
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
    let _alone = alone();
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
    let mounted = try_mutations(&original, &targets[..targets.len().min(6000)], 11, 150);
    assert!(mounted > 20, "{mounted} mounted");
}

#[test]
fn mutated_journals_are_refused_or_replayed() {
    let _alone = alone();
    let options = ["-t", "ext4", "-b", "1024", "-J", "size=1", "-N", "64"];
    let Some(original) = image(&options, 4 << 20) else { return };
    let env = Env::new(&original);
    env.mkdir("/dir").unwrap();
    for nr in 0..30 {
        let file = env.put(&format!("/dir/file{nr}"), &pattern(nr * 100, nr as u64)).unwrap();
        super::env::fsync(&file).unwrap();
    }
    // As a crash leaves it: what was committed is in the log only.
    let crashed = env.memory.snapshot();
    drop(env);
    const MAGIC: [u8; 4] = 0xc03b_3998u32.to_be_bytes();
    let blocks: Vec<usize> =
        (0..crashed.len()).step_by(1024).filter(|&at| crashed[at..at + 4] == MAGIC).collect();
    assert!(blocks.len() > 30, "{} blocks of the journal", blocks.len());
    // Headers, tags and checksums; the journal's superblock, the first of them, more often.
    let first = blocks[0];
    let headers = blocks.iter().flat_map(|&at| at..at + 64);
    let targets: Vec<usize> = (0..10).flat_map(|_| first..first + 100).chain(headers).collect();
    let mounted = try_mutations(&crashed, &targets, 12, 60);
    assert!(mounted > 5, "{mounted} mounted");
}

/// Mounts copies of `original` with a few of the bytes at `targets` changed, `nr` of them or as many as
/// `KEEL_HOSTILE_IMAGES` says, and uses what can be mounted; how many that were.
fn try_mutations(original: &[u8], targets: &[usize], seed: u64, nr: usize) -> usize {
    let wanted = std::env::var("KEEL_HOSTILE_IMAGES").ok().and_then(|text| text.parse().ok());
    let mut random = Random(seed);
    let mut mounted = 0;
    for _ in 0..wanted.unwrap_or(nr) {
        let mut bytes = original.to_vec();
        for _ in 0..1 + random.below(8) {
            let at = targets[random.below(targets.len() as u64) as usize];
            bytes[at] = random.next() as u8;
        }
        let flags = if random.below(4) == 0 { SbFlags::RDONLY } else { SbFlags::empty() };
        if let Ok(env) = Env::try_new(&bytes, flags) {
            mounted += 1;
            exercise(&env);
        }
    }
    mounted
}

#[test]
fn mutated_images_with_data_in_inodes_mount_with_an_error_or_work() {
    let _alone = alone();
    let Some(original) = super::inline::inline_image("1024", "inline_data,^metadata_csum") else { return };
    let targets: Vec<usize> = (0..original.len()).filter(|&at| original[at] != 0 && at >= 1024).collect();
    let mounted = try_mutations(&original, &targets[..targets.len().min(12000)], 13, 100);
    assert!(mounted > 10, "{mounted} mounted");
}
