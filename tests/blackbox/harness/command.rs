//! Programs that are run to their end.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::{PATIENCE, eventually};

/// Whether the server under test is the one of this package.
pub(crate) fn is_ours() -> bool {
    other_program().is_none()
}

/// The server under test.
///
/// Tests in modules named `ours` hold for the server of this package alone. So that they do not run against another
/// one unnoticed, no other one is started unless they are skipped.
pub(super) fn program() -> PathBuf {
    let Some(program) = other_program() else {
        return fs::canonicalize(env!("CARGO_BIN_EXE_pyzord")).unwrap();
    };
    let arguments: Vec<String> = env::args().collect();
    let is_skipped = arguments.windows(2).any(|pair| pair == ["--skip", "ours::"]);
    assert!(
        is_skipped || arguments.contains(&"--skip=ours::".to_owned()),
        "PYZORD names another server, so the tests of ours alone are to be skipped: use tests/run.sh, or add \
         '-- --skip ours::' to cargo test"
    );
    fs::canonicalize(program).unwrap()
}

/// The server that `PYZORD` names; none if the variable is unset or empty.
fn other_program() -> Option<OsString> {
    env::var_os("PYZORD").filter(|program| !program.is_empty())
}

/// The load generator.
pub(crate) fn generator() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pyzor-bench"))
}

/// A program that `tests/setup.sh` puts into the virtual environment.
pub(crate) fn interop(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Runs a program of the system with this input to its end; panics with advice when there is none.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{} is missing: run tests/setup.sh", command.get_program().display())
        }
        spawned => spawned.unwrap(),
    };
    // The program may end without having read everything.
    let mut stdin = child.stdin.take().unwrap();
    if let Err(error) = stdin.write_all(input) {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// What a command has said and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command until it has ended and no process, a daemon that it leaves included, has its output open.
#[track_caller]
pub(crate) fn finish(mut command: Command) -> Finished {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, outputs) = mpsc::channel();
    let stdout = Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>;
    let stderr = Box::new(child.stderr.take().unwrap()) as Box<dyn Read + Send>;
    for (index, mut pipe) in [stdout, stderr].into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            // The receiver may be gone.
            let _ = sender.send((index, String::from_utf8_lossy(&bytes).into_owned()));
        });
    }
    let mut said = [String::new(), String::new()];
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..2 {
        match outputs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, text)) => said[index] = text,
            Err(_) => {
                let status = child.try_wait().unwrap();
                let _ = child.kill();
                panic!("a process keeps the output of {command:?}, whose own state is {status:?}");
            }
        }
    }
    let code = eventually("the end of a command", || child.try_wait().unwrap()).code();
    let [stdout, stderr] = said;
    Finished { code, stdout, stderr }
}

impl Finished {
    /// Asserts that it failed with one line on stderr that has all these texts in it, and exit code 1.
    #[track_caller]
    pub(crate) fn expect_line(&self, texts: &[&str]) {
        let is_one_line = self.stderr.ends_with('\n') && self.stderr.lines().count() == 1;
        let all = texts.iter().all(|text| self.stderr.contains(text));
        assert!(
            self.code == Some(1) && self.stdout.is_empty() && is_one_line && all,
            "expected exit code 1 and one line with {texts:?}: {self:?}"
        );
    }
}
