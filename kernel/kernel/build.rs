//! Passes the linker script to the link of the kernel image.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let crate_dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = std::path::Path::new(&crate_dir).join("../hal/src/arch/x86_64/linker.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    // The image is valid as linked (no slide), its relocations stay for KASLR, and nothing is lazily bound.
    for arg in [
        "-T",
        &script.display().to_string(),
        "--apply-dynamic-relocs",
        "-z",
        "max-page-size=4096",
        "--gc-sections",
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
