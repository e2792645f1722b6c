//! Tests against e2fsprogs: images that mke2fs made are read and changed here, and e2fsck judges the result.

mod hostile;
mod image;
mod journal;
mod names;
mod trees;

use image::Image;

/// The kinds of file systems that the tests change.
const KINDS: &[&[&str]] = &[
    &["-t", "ext4"],
    &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"],
    &["-t", "ext4", "-b", "2048", "-O", "metadata_csum_seed,orphan_file,^flex_bg"],
    &["-t", "ext4", "-b", "1024", "-I", "128", "-O", "^metadata_csum,uninit_bg,^resize_inode,meta_bg"],
    &["-t", "ext2", "-b", "1024"],
    &["-t", "ext3"],
];

fn each_kind(mut test: impl FnMut(Image)) {
    for kind in KINDS {
        if let Some(image) = Image::make(kind, 16 << 20, None) {
            test(image);
        }
    }
}
