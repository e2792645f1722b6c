//! Random operations, compared with a model that knows a tree as a map of paths.

use std::collections::BTreeMap;

use abi::Errno;

use crate::env::Env;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Dir,
    File,
}

/// All objects by full path; the root is "".
struct Model(BTreeMap<String, Kind>);

fn parent(path: &str) -> &str {
    &path[..path.rfind('/').unwrap_or(0)]
}

impl Model {
    fn dir(&self, path: &str) -> Result<(), Errno> {
        // The first component that is no directory decides.
        let mut at = String::new();
        for part in path.split('/').skip(1) {
            at = format!("{at}/{part}");
            match self.0.get(&at) {
                Some(Kind::Dir) => {}
                Some(Kind::File) => return Err(Errno::ENOTDIR),
                None => return Err(Errno::ENOENT),
            }
        }
        Ok(())
    }

    fn has_children(&self, path: &str) -> bool {
        self.0.keys().any(|key| key.starts_with(&format!("{path}/")))
    }

    fn make(&mut self, path: &str, kind: Kind) -> Result<(), Errno> {
        self.dir(parent(path))?;
        if self.0.contains_key(path) {
            return Err(Errno::EEXIST);
        }
        self.0.insert(path.into(), kind);
        Ok(())
    }

    fn remove(&mut self, path: &str, kind: Kind) -> Result<(), Errno> {
        self.dir(parent(path))?;
        match (self.0.get(path), kind) {
            (None, _) => return Err(Errno::ENOENT),
            (Some(Kind::Dir), Kind::File) => return Err(Errno::EISDIR),
            (Some(Kind::File), Kind::Dir) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        if self.has_children(path) {
            return Err(Errno::ENOTEMPTY);
        }
        self.0.remove(path);
        Ok(())
    }

    fn rename(&mut self, old: &str, new: &str) -> Result<(), Errno> {
        self.dir(parent(old))?;
        self.dir(parent(new))?;
        let kind = *self.0.get(old).ok_or(Errno::ENOENT)?;
        if parent(new) == old || parent(new).starts_with(&format!("{old}/")) {
            return Err(Errno::EINVAL);
        }
        if parent(old) == new || parent(old).starts_with(&format!("{new}/")) {
            return Err(Errno::ENOTEMPTY);
        }
        if old == new {
            return Ok(());
        }
        match (kind, self.0.get(new)) {
            (Kind::Dir, Some(Kind::File)) => return Err(Errno::ENOTDIR),
            (Kind::File, Some(Kind::Dir)) => return Err(Errno::EISDIR),
            (Kind::Dir, Some(Kind::Dir)) if self.has_children(new) => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let moved: Vec<String> =
            self.0.keys().filter(|k| *k == old || k.starts_with(&format!("{old}/"))).cloned().collect();
        for key in moved {
            let kind = self.0.remove(&key).unwrap();
            self.0.insert(format!("{new}{}", &key[old.len()..]), kind);
        }
        Ok(())
    }
}

#[test]
fn random_operations_agree_with_the_model() {
    let env = Env::new();
    let mut model = Model(BTreeMap::new());
    let mut seed = 11u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..20_000 {
        let mut path = || -> String {
            (0..1 + random(3)).map(|_| format!("/{}", ["a", "b", "c", "d"][random(4) as usize])).collect()
        };
        let (p, q) = (path(), path());
        let op = random(7);
        let (got, want) = match op {
            0 | 1 => (env.mkdir(&p), model.make(&p, Kind::Dir)),
            2 => (env.create(&p).map(drop), model.make(&p, Kind::File)),
            3 => (env.unlink(&p), model.remove(&p, Kind::File)),
            4 => (env.rmdir(&p), model.remove(&p, Kind::Dir)),
            _ => (env.rename(&p, &q), model.rename(&p, &q)),
        };
        assert_eq!(got, want, "round {round} op {op} {p} {q}");
        let looked =
            env.stat(&q).map(|stat| if stat.st_mode & 0o170000 == 0o040000 { Kind::Dir } else { Kind::File });
        let known = model.dir(parent(&q)).and_then(|()| model.0.get(&q).copied().ok_or(Errno::ENOENT));
        assert_eq!(looked, known, "round {round} stat {q}");
        if round % 500 == 0 {
            for (path, kind) in model.0.iter().filter(|(_, kind)| **kind == Kind::Dir) {
                let mut want: Vec<String> = model
                    .0
                    .keys()
                    .filter(|k| parent(k) == path)
                    .map(|k| k[path.len() + 1..].into())
                    .collect();
                want.sort();
                assert_eq!(env.list(path), want, "{path} {kind:?}");
            }
        }
    }
}
