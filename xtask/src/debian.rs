//! Debian's archive: which mirror this machine uses, and packages of other suites fetched into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, ui};

/// The mirrors that the machine's own apt sources name.
pub struct Mirrors {
    /// Address of Debian's archive.
    pub main: String,
    /// Address of the security archive, when one is named.
    pub security: Option<String>,
}

impl Mirrors {
    /// Asks apt, so that every format of its sources is understood.
    pub fn find() -> Result<Mirrors> {
        let mut apt = Command::new("apt-get");
        apt.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]);
        let list = ui::capture(&mut apt).context(
            "the machine's apt sources cannot be read; Keel's images are made from Debian packages",
        )?;
        Self::parse(&list).context(
            "apt's sources on this machine name no Debian archive (a line with the component main). \
             Add a Debian mirror to /etc/apt/sources.list (`deb <mirror> bookworm main`) and run `apt-get update`",
        )
    }

    fn parse(list: &str) -> Option<Mirrors> {
        let mut main = None;
        let mut security = None;
        for line in list.lines() {
            let mut fields = line.split_whitespace();
            let (Some(uri), Some(release), Some("main")) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let uri = uri.trim_end_matches('/');
            if release.ends_with("-security") {
                security.get_or_insert_with(|| uri.to_owned());
            } else if uri.ends_with("/debian") {
                main.get_or_insert_with(|| uri.to_owned());
            }
        }
        Some(Mirrors { main: main?, security })
    }

    /// Lines of a sources.list for the stable release `suite`, with its updates.
    pub fn sources(&self, suite: &str) -> Vec<String> {
        let mut lines = vec![
            format!("deb {} {suite} main", self.main),
            format!("deb {} {suite}-updates main", self.main),
        ];
        if let Some(security) = &self.security {
            lines.push(format!("deb {security} {suite}-security main"));
        }
        lines
    }
}

/// An apt of its own, which knows one suite and keeps all its state in the cache folder.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Prepares an apt for `suite` and fetches its package lists when there are none.
    pub fn open(suite: &str) -> Result<Apt> {
        let dir = paths::make_dir(&paths::cache()?.join(format!("apt-{suite}")))?;
        for sub in ["state/lists/partial", "cache/archives/partial"] {
            paths::make_dir(&dir.join(sub))?;
        }
        let mirrors = Mirrors::find()?;
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(
            dir.join("sources.list"),
            format!("deb [signed-by={keyring}] {} {suite} main\n", mirrors.main),
        )?;
        fs::write(dir.join("state/status"), "")?;
        let at = dir.display();
        // A mirror may lag behind so far that its signed lists have run out. They are still what Debian signed,
        // and an older build of the suite does as well.
        let config = format!(
            "Acquire::Check-Valid-Until \"false\";\nDir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"-\";\nDir::State \"{at}/state\";\n\
             Dir::State::status \"{at}/state/status\";\nDir::Cache \"{at}/cache\";\nAcquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Retries \"2\";\nAcquire::http::Timeout \"30\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        );
        fs::write(dir.join("apt.conf"), config)?;
        Ok(Apt { dir })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).current_dir(self.dir.join("cache"));
        command
    }

    /// Fetches the suite's package lists.
    pub fn update(&self, step: &ui::Step) -> Result<()> {
        ui::run(step, self.command("apt-get").args(["-q", "update"])).map(drop)
    }

    /// The packages that `package` depends on directly.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let list = ui::capture(self.command("apt-cache").args(["depends", package]))?;
        Ok(list.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Fetches `package` and unpacks it into `to`; returns its file name, which tells the version.
    pub fn unpack(&self, step: &ui::Step, package: &str, to: &Path) -> Result<String> {
        let dir = self.dir.join("cache");
        let old =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&format!("{package}_"));
        for entry in fs::read_dir(&dir)?.flatten().filter(old) {
            fs::remove_file(entry.path())?;
        }
        ui::run(step, self.command("apt-get").args(["-q", "download", package]))?;
        let Some(file) = fs::read_dir(&dir)?.flatten().find(old) else {
            bail!("apt-get download {package} left no file")
        };
        ui::run(step, Command::new("dpkg-deb").arg("-x").arg(file.path()).arg(to))?;
        let name = file.file_name().to_string_lossy().into_owned();
        fs::remove_file(file.path())?;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::Mirrors;

    #[test]
    fn mirrors_are_found_among_other_sources() {
        let list = "http://example.org/tool/ stable main\nhttp://m/debian/ bookworm main\nhttp://m/debian/ bookworm contrib\nhttp://s/debian-security/ bookworm-security main\n";
        let mirrors = Mirrors::parse(list).unwrap();
        assert_eq!(mirrors.main, "http://m/debian");
        assert_eq!(mirrors.security.as_deref(), Some("http://s/debian-security"));
        assert!(Mirrors::parse("http://example.org/tool/ stable main\n").is_none());
    }
}
