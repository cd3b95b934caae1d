mod forwarding;
mod problems;
mod table;
mod upstream;

use std::fs;
use std::path::Path;

use super::*;

struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new(config: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if let Some(config) = config {
            fs::create_dir(directory.path().join(".pyzor")).unwrap();
            fs::write(directory.path().join(".pyzor/config"), config).unwrap();
        }
        Self { directory }
    }

    fn environment(&self) -> Environment {
        Environment {
            home: Some(self.directory.path().into()),
            working_directory: "/work dir".into(),
            home_of: |user| (user == "spam").then(|| PathBuf::from("/home/spam")),
        }
    }

    fn load(&self, arguments: &[&str]) -> Result<ServerInvocation, SettingsError> {
        load(arguments.iter().map(OsString::from), &self.environment())
    }

    fn settings(&self, arguments: &[&str]) -> Settings {
        match self.load(arguments) {
            Ok(ServerInvocation::Serve(settings)) => *settings,
            other => panic!("{other:?}"),
        }
    }

    /// Returns problems and warnings, in which HOME stands for the homedir.
    fn messages(&self, arguments: &[&str]) -> (Vec<String>, Vec<String>) {
        let home = self.directory.path().join(".pyzor").display().to_string();
        let clean = |text: String| text.replace(&home, "HOME");
        match self.load(arguments) {
            Err(SettingsError::Configuration { problems, warnings, .. }) => (
                problems.iter().map(|problem| clean(problem.to_string())).collect(),
                warnings.into_iter().map(clean).collect(),
            ),
            Ok(ServerInvocation::Serve(settings)) => {
                (Vec::new(), settings.warnings.into_iter().map(clean).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    fn problems(&self, arguments: &[&str]) -> Vec<String> {
        self.messages(arguments).0
    }
}

#[test]
fn defaults_apply_without_config_and_options() {
    let home = Home::new(None);
    let settings = home.settings(&[]);
    let homedir = home.directory.path().join(".pyzor");
    assert_eq!(settings.homedir, homedir);
    assert_eq!(
        (settings.port, settings.listen_address.as_str(), settings.engine.as_str()),
        (24441, "0.0.0.0", "gdbm")
    );
    assert_eq!(settings.digest_db_path, homedir.join("pyzord.db"));
    assert_eq!(settings.cleanup_age, 10_368_000);
    assert_eq!(
        (settings.passwd_file, settings.access_file),
        (homedir.join("pyzord.passwd"), homedir.join("pyzord.access"))
    );
    assert_eq!((settings.access_order, settings.access_order_explicit), (AccessOrder::First, false));
    assert_eq!(settings.pid_file, homedir.join("pyzord.pid"));
    assert_eq!((settings.log_file, settings.usage_log_file, settings.detach), (None, None, None));
    assert_eq!((settings.nice, settings.debug, settings.db_connections), (0, false, 0));
    assert_eq!(settings.warnings, [""; 0]);
    assert_eq!(
        settings.notices,
        [format!("the homedir {} does not exist and will be created", homedir.display())]
    );
    assert!(!homedir.exists(), "loading creates nothing");
}

#[test]
fn the_homedir_depends_on_home() {
    let environment = |home: Option<&str>| Environment {
        home: home.map(Into::into),
        working_directory: "/usr".into(),
        home_of: |_| None,
    };
    let homedir =
        |home, arguments: &[&str]| match load(arguments.iter().map(OsString::from), &environment(home)) {
            Ok(ServerInvocation::Serve(settings)) => settings.homedir,
            other => panic!("{other:?}"),
        };
    assert_eq!(homedir(None, &[]), Path::new("/etc/pyzor"));
    assert_eq!(homedir(Some(""), &[]), Path::new("/etc/pyzor"));
    assert_eq!(homedir(Some("/nobody"), &["--homedir", "x"]), Path::new("/usr/x"));
    assert_eq!(homedir(Some("/nobody"), &["--homedir=/usr/y/"]), Path::new("/usr/y/"));
}

#[test]
fn command_line_overrides_the_file() {
    let home = Home::new(Some("[server]\nport = 1\nListenAddress: ::1\nAccessOrder = last\nLogFile = log\n"));
    let settings = home.settings(&["-p", "2", "--log-file="]);
    assert_eq!((settings.port, settings.listen_address.as_str()), (2, "::1"));
    assert_eq!((settings.access_order, settings.access_order_explicit), (AccessOrder::Last, true));
    assert_eq!(settings.log_file, None);
}

#[test]
fn files_are_in_the_homedir_and_tildes_are_expanded() {
    let home = Home::new(Some(
        "[server]\nLogFile = ~/a/log\nUsageLogFile = ~spam/usage\nPasswdFile = sub/passwd\nAccessFile = /etc/access\nPidFile = ~nobody-known/pid\nDigestDB = ~/x.db\n",
    ));
    let settings = home.settings(&["--detach", "out"]);
    let directory = home.directory.path();
    assert_eq!(settings.log_file, Some(directory.join("a/log")));
    assert_eq!(settings.usage_log_file, Some("/home/spam/usage".into()));
    assert_eq!(settings.passwd_file, directory.join(".pyzor/sub/passwd"));
    assert_eq!(settings.access_file, Path::new("/etc/access"));
    assert_eq!(settings.pid_file, directory.join(".pyzor/~nobody-known/pid"));
    assert_eq!(settings.digest_db_path, directory.join("x.db"));
    assert_eq!(settings.detach, Some("/work dir/out".into()));
}

#[test]
fn references_see_the_command_line_and_then_the_defaults() {
    let home = Home::new(Some(
        "[DEFAULT]\nPort = 7\nbase = x\n[server]\nLogFile = /%(Port)s%(base)s%(DigestDB)s\nUsageLogFile = %(nothing)s\n",
    ));
    let settings = home.settings(&[
        "-p",
        "99",
        "--dsn",
        "%(base)s.db",
        "--usage-log-file",
        "/%(Engine)s",
        "--detach",
        "/50%%",
    ]);
    assert_eq!(settings.log_file, Some("/99xx.db".into()));
    assert_eq!(settings.usage_log_file, Some("/gdbm".into()));
    assert_eq!(settings.detach, Some("/50%%".into()), "the config file has no such option");
}

#[test]
fn tilde_is_expanded_to_home_or_the_directory_of_the_account() {
    let expanded = |home: Option<&str>| {
        let home_of = |user: &str| user.is_empty().then(|| PathBuf::from("/root"));
        Environment { home: home.map(Into::into), working_directory: "/".into(), home_of }.expand("~/log")
    };
    assert_eq!(expanded(Some("/home/x")), Path::new("/home/x/log"));
    assert_eq!(expanded(Some("")), Path::new("/log"));
    assert_eq!(expanded(None), Path::new("/root/log"));
}

#[test]
fn references_and_percent_signs_are_resolved() {
    let home = Home::new(Some(
        "[DEFAULT]\nbase = /var/log\nPort = 5\n[server]\nLogFile = %(base)s/pyzord-%(port)s.log\nDigestDB = 100%%-50%.db\n",
    ));
    let settings = home.settings(&[]);
    assert_eq!(settings.log_file, Some("/var/log/pyzord-24441.log".into()));
    assert_eq!(settings.port, 24441, "[DEFAULT] does not replace the built-in defaults");
    assert_eq!(settings.digest_db, "100%-50%.db");
    assert_eq!(home.settings(&["--dsn", "a%%b%c"]).digest_db, "a%b%c");
}

#[test]
fn concurrency_options_are_accepted_without_effect() {
    let home = Home::new(Some(
        "[client]\nServersFile = servers\n[server]\nPreFork = 4\nThreads = True\nMaxThreads = 4\nEngine = gdbm\n",
    ));
    let settings = home.settings(&["--gevent", "true", "--max-processes", "7"]);
    assert_eq!(settings.warnings, [""; 0]);
    assert_eq!(
        settings.notices,
        ["Threads, MaxThreads, MaxProcesses, PreFork, Gevent: ignored, because one loop serves all requests"]
    );
}

#[test]
fn deployed_configurations_are_accepted() {
    let deployed = [
        "[server]\nEngine = redis\nDigestDB = localhost,6379,s3cret,0\nPreFork = 4\nThreads = True\nMaxThreads = 4\nLogFile = /var/log/pyzord.log\nUsageLogFile = /var/log/usage.log\n",
        "[client]\nTimeout = 5\n[server]\nEngine = redis\nDigestDB = localhost,6379,,10\n",
    ];
    for config in deployed {
        assert_eq!(Home::new(Some(config)).settings(&[]).engine, "redis");
    }
    let scrollout =
        ["--detach", "/dev/null", "--homedir=/var/lib/.pyzor/", "-a", "127.0.0.1", "--cleanup-age=2592000"];
    let settings = Home::new(None).settings(&scrollout);
    assert_eq!((settings.cleanup_age, settings.listen_address.as_str()), (2_592_000, "127.0.0.1"));
    assert_eq!(settings.detach, Some("/dev/null".into()));
}
