//! Which crate of the kernel uses which, held against the list in ARCHITECTURE.md.
//!
//! The list is the block fenced by ```` ```edges ````: a crate, a colon, the crates that it may use, or `*`.
//! A crate that has no line may use no other. Development dependencies are free: tests may look down further.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::paths;

/// Crate → the crates that it may use.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Fails with every edge that is not listed.
pub fn run() -> Result<String> {
    let text = fs::read_to_string(paths::repo().join("ARCHITECTURE.md"))
        .context("ARCHITECTURE.md cannot be read")?;
    let allowed = parse(&text)?;
    let actual = edges_of_workspace()?;
    let wrong = violations(&allowed, &actual);
    if !wrong.is_empty() {
        bail!("edges that ARCHITECTURE.md does not list:\n  {}", wrong.join("\n  "));
    }
    Ok(format!("{} edges, all listed", actual.values().map(BTreeSet::len).sum::<usize>()))
}

fn parse(text: &str) -> Result<Edges> {
    let block = text.split_once("```edges\n").and_then(|(_, rest)| rest.split_once("```"));
    let (block, _) = block.context("ARCHITECTURE.md has no block ```edges")?;
    let mut edges = Edges::new();
    for line in block.lines().filter(|l| !l.trim().is_empty()) {
        let (from, to) =
            line.split_once(':').with_context(|| format!("no colon in the edge line `{line}`"))?;
        edges.insert(from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect());
    }
    Ok(edges)
}

/// Normal and build dependencies among the crates below kernel/.
fn edges_of_workspace() -> Result<Edges> {
    let metadata =
        MetadataCommand::new().current_dir(paths::repo()).no_deps().exec().context("cargo metadata")?;
    let kernel = paths::repo().join("kernel");
    let packages: Vec<_> =
        metadata.packages.iter().filter(|p| p.manifest_path.as_std_path().starts_with(&kernel)).collect();
    let names: BTreeSet<String> = packages.iter().map(|p| p.name.to_string()).collect();
    let mut edges = Edges::new();
    for package in packages {
        let used =
            package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development && d.path.is_some());
        let used = used.map(|d| d.name.clone()).filter(|name| names.contains(name)).collect();
        edges.insert(package.name.to_string(), used);
    }
    Ok(edges)
}

fn violations(allowed: &Edges, actual: &Edges) -> Vec<String> {
    let none = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, used) in actual {
        let may = allowed.get(from).unwrap_or(&none);
        for to in used.iter().filter(|to| !may.contains(*to) && !may.contains("*")) {
            wrong.push(format!("{from} -> {to}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_is_not_listed_is_found() {
        let allowed = parse("text\n```edges\nmm: hal\nkeel: *\n```\n").unwrap();
        let actual = parse("```edges\nmm: hal vfs\nkeel: mm vfs\nhal: mm\n```").unwrap();
        assert_eq!(violations(&allowed, &actual), ["hal -> mm", "mm -> vfs"]);
    }
}
