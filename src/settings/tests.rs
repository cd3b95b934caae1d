use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::load::GivenValue;
use super::table::{OPTIONS, OptionEffect, OptionKind};
use super::*;
use pyzor_home::ini::IniDocument;

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
fn error_about_a_reference_does_not_show_a_password() {
    let dsn = "localhost,6379,x%(s3cret)s,0";
    let home = Home::new(Some(&format!("[server]\nSentryDSN = {dsn}\nUsageSentryDSN = {dsn}\n")));
    let problems = home.problems(&["--dsn", dsn]);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().all(|problem| !problem.contains("s3cret")), "{problems:?}");
}

#[test]
fn homedir_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let home = Some(OsString::from_vec(b"/home/caf\xe9".to_vec()));
    let environment = Environment { home, working_directory: "/".into(), home_of: |_| None };
    let Err(SettingsError::Configuration { problems, .. }) = load([], &environment) else { panic!() };
    assert!(problems[0].to_string().ends_with(": the path of the homedir is not UTF-8"), "{problems:?}");
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
fn impossible_homedir_is_reported() {
    let home = Home::new(None);
    assert_eq!(home.problems(&["--homedir", ""]), ["--homedir: the path of the homedir is empty"]);
    let problems = home.problems(&["--homedir", "/nonexistent/a/b"]);
    assert_eq!(
        problems,
        [
            "/nonexistent/a/b: cannot create the homedir, because its parent directory does not exist: create that first"
        ]
    );
    assert_eq!(home.problems(&["--homedir", "/dev/null"]), ["/dev/null: the homedir is not a directory"]);
}

#[test]
fn bad_values_that_the_python_server_never_reads_are_tolerated() {
    let bad = "MaxThreads = abc\nMaxProcesses = -3\nDBConnections =\n";
    let (problems, warnings) = Home::new(Some(&format!("[server]\n{bad}"))).messages(&[]);
    assert_eq!(problems, [""; 0]);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let (problems, warnings) = Home::new(Some(&format!("[server]\nThreads = True\n{bad}"))).messages(&[]);
    assert_eq!((problems.len(), warnings.len()), (2, 1), "{problems:?}");
    let large = "MaxThreads = 9999999999\nMaxProcesses = 9999999999\nPreFork = 9999999999\n";
    let settings = Home::new(Some(&format!("[server]\nThreads = True\n{large}"))).settings(&[]);
    assert_eq!(settings.warnings, [""; 0]);
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
fn all_problems_are_reported_at_once_with_their_places() {
    let home = Home::new(Some(
        "[server]\nPort = 31310 # x\nEngine = GDBM\nCleanupAge = -1\nAccessOrder = middle\nMaxThreads = -1\nLogFile = %(nothing)s\nPreFork = 1\nThreads = true\nProcesses = TRUE\nDBConnections = many\n",
    ));
    assert_eq!(
        home.problems(&["--port", "70000", "--pre-fork", "abc"]),
        [
            "HOME/config:7: LogFile: %(nothing)s refers to an unknown option: for a plain % write %%",
            "--port: Port: 70000 is more than the maximum of 65535",
            "HOME/config:3: Engine: unknown value 'GDBM': expected one of gdbm, mysql, redis, redis_v0",
            "HOME/config:4: CleanupAge: -1 is less than the minimum of 0",
            "HOME/config:5: AccessOrder: unknown value 'middle': expected one of first, last",
            "HOME/config:11: DBConnections: 'many' is not a whole number",
            "HOME/config:6: MaxThreads: -1 is less than the minimum of 0",
            "--pre-fork: PreFork: 'abc' is not a whole number",
            "HOME/config:10: You cannot use both processes and threads at the same time",
        ]
    );
    assert_eq!(
        home.problems(&[])[1],
        "HOME/config:2: Port: '31310 # x' is not a whole number: write 31310, and put the comment on a line of its own"
    );
    assert!(home.problems(&[]).contains(&"HOME/config:8: Pre-fork value cannot be lower than 2.".to_owned()));
}

#[test]
fn broken_file_is_reported_with_other_problems() {
    let home = Home::new(Some("Port = 1\n[server]\nPort\n"));
    assert_eq!(home.problems(&["-e", "x"]).len(), 3);
    let home = Home::new(None);
    fs::create_dir_all(home.directory.path().join(".pyzor/config")).unwrap();
    assert_eq!(home.problems(&[]), ["HOME/config: cannot read the file: it is not a regular file"]);
}

#[test]
fn questionable_values_cause_warnings() {
    let home = Home::new(Some(
        "[server]\nThreads = yes\nGevent = False\nLogFile = usage\t# c\nProt = 1\nSomething = 1\nSentryDSN = http://key@host/1\nDigestDB = x.db ; mine\nPasswdFile = a#b\n",
    ));
    let (problems, warnings) = home.messages(&[]);
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        warnings,
        [
            "HOME/config:5: unknown option Prot, ignored; did you mean Port?",
            "HOME/config:6: unknown option Something, ignored",
            "HOME/config:4: LogFile: the file name 'usage\\t# c' includes a comment: put the comment on a line of its own",
            "HOME/config:2: Threads: 'yes' means False, because only 'True' means True: write True or False",
            "HOME/config:8: DigestDB: the file name includes a comment: put the comment on a line of its own",
            "SentryDSN: ignored, because nothing is ever sent to Sentry",
        ]
    );
}

#[test]
fn section_in_another_case_causes_a_warning() {
    let (problems, warnings) = Home::new(Some("[Server]\nPort = 1\n")).messages(&[]);
    assert_eq!(problems, [""; 0]);
    assert_eq!(warnings, ["HOME/config: the section [Server] is ignored: the server reads [server]"]);
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

#[test]
fn malformed_database_name_is_reported_without_showing_it() {
    for (engine, database, problem) in [
        ("redis", "s3cret.db", "expected host,port,password,database, as in localhost,6379,,0, or a URL"),
        ("redis_v0", "h,x,s3cret,0", "the second part, the port, must be a number from 1 to 65535"),
        ("redis", "rediss://u:s3cret@h/0?s3cret=1", "the URL has an unknown parameter"),
    ] {
        let config = format!("[server]\nDigestDB = {database}\nEngine = {engine}\n");
        let problems = Home::new(Some(&config)).problems(&[]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("HOME/config:2: DigestDB: {problem}")), "{problems:?}");
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
}

#[test]
fn forwarding_is_not_supported_yet() {
    let home = Home::new(Some("[server]\nForwardClientHomeDir = /x\n"));
    let problem = "HOME/config:2: ForwardClientHomeDir: this version does not support forwarding yet: remove the option";
    assert_eq!(home.problems(&[]), [problem]);
}

/// A value of an option that is not its default.
fn other_value(option: &table::ServerOption) -> String {
    match option.kind {
        OptionKind::Number(lowest, highest, ..) if option.default == lowest.to_string() => {
            highest.to_string()
        }
        OptionKind::Number(lowest, ..) => lowest.to_string(),
        OptionKind::Truth(_) | OptionKind::StrictTruth(_) => (option.default != "True").to_string(),
        OptionKind::Word(words, _) => {
            words.iter().rfind(|word| **word != option.default).unwrap().to_string()
        }
        OptionKind::Networks(_) => "::/0".to_owned(),
        _ => "x".to_owned(),
    }
}

#[test]
fn every_honoured_option_has_its_own_field_which_holds_the_range() {
    let home = Home::new(None);
    let environment = home.environment();
    let mut loader = SettingsLoader::new(&environment, Vec::new());
    let defaults = format!("{:?}", loader.typed());
    let mut seen = BTreeSet::from([defaults]);
    for option in OPTIONS {
        let mut store = |text: &str| {
            let mut settings = loader.typed();
            let given = GivenValue { text: text.to_owned(), ..GivenValue::default_of(option) };
            loader.store(&mut settings, option, &given).unwrap();
            format!("{settings:?}")
        };
        if let OptionKind::Number(lowest, highest, ..) = option.kind {
            store(&lowest.to_string());
            store(&highest.to_string());
        }
        let settings = store(&other_value(option));
        if option.effect == OptionEffect::Honoured && option.key != "homedir" {
            assert!(seen.insert(settings), "{} has no field of its own", option.key);
        }
    }
    assert_eq!(loader.warnings, [""; 0]);
}

#[test]
fn the_example_has_every_option_with_its_default() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example")).unwrap();
    assert!(
        example.lines().all(|line| line.is_empty() || line.starts_with('#') || line == "[server]"),
        "only comments and the section"
    );
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(option) if !option.starts_with([' ', '#']) => format!("{option}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let document = IniDocument::parse(uncommented.as_bytes(), "config.example").unwrap();
    let found: BTreeMap<&str, &str> =
        document.section(SECTION).iter().map(|value| (value.name.as_str(), value.text.as_str())).collect();
    let expected: BTreeMap<&str, &str> =
        OPTIONS.iter().filter(|option| option.in_file).map(|option| (option.key, option.default)).collect();
    assert_eq!(found, expected);
    let home = Home::new(Some(&uncommented));
    assert_eq!(
        home.messages(&[]),
        (
            Vec::new(),
            vec![
                "SentryLogLevel, UsageSentryLogLevel: ignored, because nothing is ever sent to Sentry"
                    .to_owned()
            ]
        )
    );
}

/// The option's flags as the documentation names them: `--port`, `-p`.
fn flags(option: &table::ServerOption) -> Vec<String> {
    let long = option.flag.map(|flag| format!("--{flag}"));
    let short = option.short.map(|short| format!("-{short}"));
    long.into_iter().chain(short).collect()
}

#[test]
fn the_reference_has_every_option_with_its_flags_and_default() {
    let reference =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let found: Vec<&str> =
        reference.lines().filter(|line| line.starts_with("| `") || line.starts_with("| – |")).collect();
    assert_eq!(found.len(), OPTIONS.len(), "a row for each option and no other");
    for option in OPTIONS {
        let key = if option.in_file { format!("`{}`", option.key) } else { "–".to_owned() };
        let flags = flags(option).iter().map(|flag| format!("`{flag}`")).collect::<Vec<_>>().join(", ");
        let flags = if flags.is_empty() { "–" } else { &flags };
        let default =
            if option.default.is_empty() { "none".to_owned() } else { format!("`{}`", option.default) };
        let row = format!("| {key} | {flags} | {default} | ");
        assert!(found.iter().any(|line| line.starts_with(&row)), "there is no row {row}");
    }
}

#[test]
fn the_manual_pages_have_every_option_with_its_default() {
    let page =
        |name: &str| fs::read_to_string(format!("{}/docs/man/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (daemon, file) = (page("pyzord.8"), page("pyzord.conf.5"));
    let flags_of = |line: &str| {
        let words = line.replace(" Ns = Ns", "").replace(',', " ");
        let flags: Vec<String> = words
            .split_whitespace()
            .skip_while(|word| *word != "Fl")
            .filter(|word| !matches!(*word, "Fl" | "Ar" | "number" | "text" | "file" | "path" | "word"))
            .map(|word| format!("-{word}"))
            .collect();
        flags
    };
    let described: Vec<Vec<String>> =
        daemon.lines().filter(|line| line.starts_with(".It Fl")).map(flags_of).collect();
    let mut expected =
        vec![vec!["-h".to_owned(), "--help".to_owned()], vec!["-V".to_owned(), "--version".to_owned()]];
    expected.extend(OPTIONS.iter().filter(|option| option.flag.is_some()).map(|option| {
        let mut flags = flags(option);
        flags.reverse();
        flags
    }));
    let sorted = |mut list: Vec<Vec<String>>| {
        list.sort();
        list
    };
    assert_eq!(sorted(described), sorted(expected));

    let keys: Vec<&str> = file
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm ")?.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    let expected: Vec<&str> =
        OPTIONS.iter().filter(|option| option.in_file).map(|option| option.key).collect();
    let sorted = |mut list: Vec<&str>| {
        list.sort_unstable();
        list.join(" ")
    };
    assert_eq!(sorted(keys), sorted(expected));
    for option in OPTIONS.iter().filter(|option| option.in_file) {
        let begin = file.find(&format!(".It Cm {} = ", option.key)).unwrap();
        let item = &file[begin..];
        let item = &item[..item[1..].find("\n.It ").or_else(|| item.find("\n.El")).unwrap_or(item.len())];
        let default = if option.default.is_empty() { "none" } else { option.default };
        if option.effect == OptionEffect::Honoured {
            assert!(
                item.contains(&format!("Default: {default}")),
                "{}: no default {default} in {item}",
                option.key
            );
        }
    }
}
