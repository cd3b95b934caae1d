//! Programs under test and of the system, run to completion.

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

/// Whether the server under test is this package's, not another server named by `PYZORD`.
pub(crate) fn is_ours() -> bool {
    other_program().is_none()
}

/// Returns the program of the server under test.
///
/// Tests in modules named `ours` are valid only for this package's server. Panics if another server is named and those
/// tests are not skipped.
pub(super) fn program() -> PathBuf {
    let Some(program) = other_program() else {
        return fs::canonicalize(env!("CARGO_BIN_EXE_pyzord")).unwrap();
    };
    let arguments: Vec<String> = env::args().collect();
    let is_skipped = arguments.windows(2).any(|pair| pair == ["--skip", "ours::"]);
    assert!(
        is_skipped || arguments.contains(&"--skip=ours::".to_owned()),
        "PYZORD names another server, for which the tests in modules named ours are not valid: use tests/run.sh, or \
         add '-- --skip ours::' to cargo test"
    );
    fs::canonicalize(program).unwrap()
}

/// Returns the server that `PYZORD` names, or none if the variable is unset or empty.
fn other_program() -> Option<OsString> {
    env::var_os("PYZORD").filter(|program| !program.is_empty())
}

/// Returns the program of the load generator.
pub(crate) fn generator() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pyzor-bench"))
}

/// Returns the program that asks running servers.
pub(crate) fn controller() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pyzorctl"))
}

/// Returns a program of the Python virtual environment that `tests/setup.sh` creates.
pub(crate) fn interop(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Runs a program of the system with this input to completion; panics if it is not installed.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{} is missing: run tests/setup.sh", command.get_program().display())
        }
        spawned => spawned.unwrap(),
    };
    // The program may exit without reading all input.
    let mut stdin = child.stdin.take().unwrap();
    if let Err(error) = stdin.write_all(input) {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// The output and the exit code of a command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command until it has exited and no process has its output open, not even a daemon that it has started.
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
    let mut texts = [String::new(), String::new()];
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..2 {
        match outputs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, text)) => texts[index] = text,
            Err(_) => {
                let status = child.try_wait().unwrap();
                let _ = child.kill();
                panic!(
                    "a process keeps the output of {command:?} open, which has itself the status {status:?}"
                );
            }
        }
    }
    let code = eventually("a command to exit", || child.try_wait().unwrap()).code();
    let [stdout, stderr] = texts;
    Finished { code, stdout, stderr }
}

impl Finished {
    /// Asserts that the command failed with exit code 1 and one line on stderr that contains all these texts.
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
