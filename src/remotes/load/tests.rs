use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";

struct Client {
    directory: tempfile::TempDir,
}

impl Client {
    fn new(files: &[(&str, &str)]) -> Self {
        let client = Self { directory: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            let path = client.directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        }
        client
    }

    fn source(&self) -> DirectorySource {
        DirectorySource { path: self.directory.path().to_owned(), home: None }
    }

    /// Returns the text, in which DIR stands for the directory.
    fn clean(&self, text: &str) -> String {
        text.replace(&self.directory.path().display().to_string(), "DIR")
    }

    fn loaded(&self) -> (Vec<String>, Vec<String>) {
        let loaded = load(&self.source()).unwrap();
        let servers = loaded.directory.servers.iter();
        let servers = servers.map(|server| format!("{server} {}", server.signer.user())).collect();
        (servers, loaded.warnings.iter().map(|text| self.clean(text)).collect())
    }

    fn error(&self) -> (String, bool) {
        let error = load(&self.source()).unwrap_err();
        (self.clean(&error.to_string()), error.is_lasting())
    }
}

#[test]
fn servers_have_the_accounts_with_their_host_and_port() {
    let client = Client::new(&[
        ("servers", "a\nlocalhost:24441\n[::1]:5 # six\n127.0.0.1:24441\n"),
        (
            "accounts",
            &format!("a:24441:bob:,{KEY}\nLOCALHOST:24441:eve:,{KEY}\n[0::1] : 5 : carl : ,{KEY}\n"),
        ),
    ]);
    let (servers, warnings) = client.loaded();
    assert_eq!(
        servers,
        ["a:24441 bob", "localhost:24441 anonymous", "[::1]:5 carl", "127.0.0.1:24441 anonymous"]
    );
    assert_eq!(
        warnings,
        [
            "DIR/accounts:2: the account 'eve' is not used, because the servers file does not name LOCALHOST:24441: write host and port as in that file"
        ]
    );
    let loaded = load(&client.source()).unwrap();
    assert_eq!(loaded.directory.timeout, Duration::from_secs(5));
    assert_eq!(loaded.directory.servers[0].signer, Signer::new("bob", KEY));
    assert_eq!(
        loaded.directory.describe(),
        "a:24441 (as bob), localhost:24441 (anonymous), [::1]:5 (as carl), 127.0.0.1:24441 (anonymous)"
    );
}

#[test]
fn config_names_the_files() {
    let client = Client::new(&[
        ("config", "[client]\nServersFile = s\nAccountsFile = a\nTimeout = 2\n"),
        ("s", "h:1\n"),
    ]);
    assert_eq!(
        client.loaded().1,
        ["the accounts file DIR/a does not exist: all requests are anonymous"],
        "the config names it"
    );
    assert_eq!(load(&client.source()).unwrap().directory.timeout, Duration::from_secs(2));
    let names: Vec<String> =
        files(&client.source()).iter().map(|path| client.clean(&path.display().to_string())).collect();
    assert_eq!(names, ["DIR/config", "DIR/s", "DIR/a"]);
}

#[test]
fn nothing_to_forward_to_is_an_error() {
    let usable = "write a line 'host:port' for each server";
    assert_eq!(
        Client::new(&[]).error(),
        (
            "the servers file DIR/servers does not exist: write it, with a line 'host:port' for each server"
                .to_owned(),
            false
        )
    );
    assert_eq!(
        Client::new(&[("servers", "# none\n\n")]).error(),
        (format!("DIR/servers names no server: {usable}"), true)
    );
    assert_eq!(
        Client::new(&[("servers", "a:x\nb:y\n")]).error(),
        (
            format!(
                "DIR/servers names no server: {usable}; DIR/servers:1: not a server, skipped: the port is not a number from 1 to 65535"
            ),
            true
        )
    );
    let error = load(&DirectorySource { path: "/nonexistent/x".into(), home: None }).unwrap_err();
    assert!(error.to_string().starts_with("the directory /nonexistent/x does not exist: "), "{error}");
    let error = load(&DirectorySource { path: "/dev/null".into(), home: None }).unwrap_err();
    assert!(error.to_string().starts_with("/dev/null is not a directory: ") && error.is_lasting(), "{error}");
}

#[test]
fn file_that_cannot_be_read_is_an_error() {
    for name in ["config", "servers", "accounts"] {
        let client = Client::new(&[("servers", "a:1\n")]);
        let path = client.directory.path().join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        let expected = format!("cannot read DIR/{name}: it is not a regular file");
        assert_eq!(client.error(), (expected, true));
    }
    let client =
        Client::new(&[("servers", "a:1\n"), ("config", "[client]\nTimeout = soon\nServersFile =\n")]);
    let error = load(&client.source()).unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
}

#[test]
fn symbolic_link_to_nothing_is_an_error() {
    for name in ["config", "accounts"] {
        let client = Client::new(&[("servers", "a:1\n")]);
        std::os::unix::fs::symlink("missing", client.directory.path().join(name)).unwrap();
        let (error, is_lasting) = client.error();
        assert!(
            error.starts_with(&format!("DIR/{name} is a symbolic link to a file that does not exist: ")),
            "{error}"
        );
        // The target may be on a disk that is mounted later.
        assert!(!is_lasting);
    }
}

#[test]
fn keys_that_others_can_read_cause_a_warning() {
    let client = Client::new(&[("servers", "a:1\n"), ("accounts", &format!("a:1:bob:,{KEY}\n"))]);
    assert_eq!(client.loaded().1, [""; 0]);
    let path = client.directory.path().join("accounts");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        client.loaded().1,
        ["every user of this machine can read or change the keys in DIR/accounts: chmod o= DIR/accounts"]
    );
}

#[test]
fn directory_is_refused_if_a_bad_line_could_take_an_account_from_a_server() {
    let account = format!("a.example : 1 : bob : ,{KEY}\n");
    let load_with = |servers: &str, accounts: &str| {
        load(&Client::new(&[("servers", servers), ("accounts", accounts)]).source()).unwrap()
    };
    let in_force = load_with("a.example:1\nb.example:1\n", &account).directory;
    let refusal = |servers: &str, accounts: &str| load_with(servers, accounts).refusal(&in_force);
    let bad = "a.example : 1 : bob\n";
    let both = format!("{account}c.example : 1 : eve\n");
    assert_eq!(refusal("a.example:1\n", &account), None);
    assert_eq!(refusal("a.example:1\n", ""), None, "the operator has removed it");
    assert!(refusal("a.example:1\n", bad).unwrap().ends_with("requests to a.example:1 would be anonymous"));
    assert_eq!(refusal("a.example:1\nb.example:1\n", &both), None, "b.example was anonymous before");
    assert!(refusal("a.example:1\nc.example:1\n", &both).unwrap().contains("c.example:1 would be anonymous"));
    assert!(refusal("a.example:1\nb.example;1\n", &account).unwrap().contains("servers:2"));
}
