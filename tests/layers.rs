//! The layers of the source: modules and packages may use only those below them.

#![allow(clippy::unwrap_used, reason = "clippy does not see that tests call these functions")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The modules of `src`, from the highest layer to the lowest. Modules of one layer must not use each other.
const MODULES: &[&[&str]] = &[
    &["fuzzing"],
    &["daemon", "migrate", "pyzorctl"],
    &["metrics", "server"],
    &["control"],
    &["handler", "settings"],
    &["forward", "upstream"],
    &["limits"],
    &["access", "remotes", "storage"],
    &["fuzz_models", "logging"],
    &["record", "stats"],
    &["optparse", "os"],
];

/// The packages, and the packages of this workspace that each may use. Of `pyzord` only an executable may use
/// `pyzor-bench`.
const PACKAGES: &[(&str, &[&str])] = &[
    ("pyzor-wire", &[]),
    ("pyzor-udp", &[]),
    ("pyzor-home", &["pyzor-wire"]),
    ("pyzor-bench", &["pyzor-udp", "pyzor-wire"]),
    ("pyzord", &["pyzor-bench", "pyzor-home", "pyzor-udp", "pyzor-wire", "pyzord"]),
];

fn files(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_module_uses_only_modules_below_it() {
    let layer = |module: &str| MODULES.iter().position(|layer| layer.contains(&module));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in files(&source) {
        let inside = path.strip_prefix(&source).unwrap().with_extension("");
        let module = inside.iter().next().unwrap().to_str().unwrap();
        if ["lib", "bin"].contains(&module) {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} is missing in MODULES"));
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
        let depth = inside.iter().filter(|part| *part != "mod").count();
        let root = "super::".repeat(depth + usize::from(code.contains("mod tests {")));
        // Other ways to name a module, which the loop below would not see.
        for way in [&root, "crate::{", "crate as ", "#[path", "pyzor_bench"] {
            assert!(!code.contains(way), "{}: write crate::MODULE instead of {way}", path.display());
        }
        for rest in code.split("crate::").skip(1) {
            let name = rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap();
            let is_below = name == module || layer(name).is_some_and(|other| other > own);
            assert!(is_below, "{} uses crate::{name}, which is not below {module}", path.display());
        }
    }
}

#[test]
fn every_package_uses_only_packages_below_it() {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let output = Command::new(env!("CARGO")).args(arguments).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        let (_, allowed) = PACKAGES.iter().find(|(name, _)| *name == package["name"]).unwrap();
        for used in
            package["dependencies"].as_array().unwrap().iter().filter(|used| used["path"] != Value::Null)
        {
            let is_allowed = allowed.iter().any(|name| *name == used["name"]);
            assert!(is_allowed, "{} uses {}", package["name"], used["name"]);
        }
    }
}
