//! The rule of unsafe code: it lives in kernel/hal; every other crate of the kernel forbids it at its root.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::paths;

/// The one crate that may.
const EXEMPT: &str = "hal";

/// The binary, which holds the entry symbol: `hal::entry!` says `expect(unsafe_code)` for that one item.
const ENTRY: &str = "keel";

/// Fails with every crate root that lacks the attribute; tells how much unsafe code hal has.
pub fn run() -> Result<String> {
    let metadata =
        MetadataCommand::new().current_dir(paths::repo()).no_deps().exec().context("cargo metadata")?;
    let kernel = paths::repo().join("kernel");
    let mut bare = Vec::new();
    for package in metadata.packages.iter().filter(|p| p.manifest_path.as_std_path().starts_with(&kernel)) {
        let roots = package.targets.iter().filter(|t| t.is_lib() || t.is_bin());
        for root in roots.filter(|_| package.name.as_str() != EXEMPT) {
            let text = fs::read_to_string(&root.src_path)?;
            let rule = if package.name.as_str() == ENTRY { "deny" } else { "forbid" };
            if !text.contains(&format!("#![{rule}(unsafe_code)]")) {
                bare.push(root.src_path.to_string());
            }
        }
    }
    if !bare.is_empty() {
        bail!("these crate roots lack #![forbid(unsafe_code)]:\n  {}", bare.join("\n  "));
    }
    let size = measure(&kernel.join(EXEMPT).join("src"))?;
    Ok(format!("hal has {} lines of code and {} unsafe blocks", size.lines, size.blocks))
}

/// How much there is to trust.
#[derive(Debug, Default, PartialEq)]
struct Size {
    /// Lines that are neither blank nor comment.
    lines: usize,
    /// `unsafe { }`, `unsafe fn`, `unsafe impl` and `unsafe trait`.
    blocks: usize,
}

fn measure(dir: &Path) -> Result<Size> {
    let mut size = Size::default();
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry?;
        if entry.path().extension().is_some_and(|e| e == "rs") {
            let part = measure_text(&fs::read_to_string(entry.path())?);
            size.lines += part.lines;
            size.blocks += part.blocks;
        }
    }
    Ok(size)
}

fn measure_text(text: &str) -> Size {
    let code = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//"));
    code.fold(Size::default(), |size, line| Size {
        lines: size.lines + 1,
        blocks: size.blocks
            + line.split_whitespace().filter(|w| *w == "unsafe" || w.ends_with("(unsafe")).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_do_not_count() {
        let size = measure_text("//! unsafe\n\nfn f() {\n    // unsafe\n    let x = unsafe { g() };\n}\n");
        assert_eq!(size, Size { lines: 3, blocks: 1 });
    }
}
