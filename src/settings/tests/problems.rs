//! Problems and warnings of settings.

use std::ffi::OsString;
use std::fs;

use super::Home;
use crate::settings::{Environment, SettingsError, load};

#[test]
fn error_about_a_reference_does_not_show_a_password() {
    let dsn = "localhost,6379,x%(s3cret)s,0";
    let home = Home::new(Some(&format!("[server]\nSentryDSN = {dsn}\nUsageSentryDSN = {dsn}\n")));
    let problems = home.problems(&["--dsn", dsn]);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().all(|problem| !problem.contains("s3cret")), "{problems:?}");
}

#[test]
fn database_of_another_engine_is_not_the_name_of_a_new_file() {
    for dsn in
        ["localhost,6379,s3cret,0", "redis://:s3cret@localhost/0", "localhost,user,s3cret,pyzor,digests"]
    {
        let home = Home::new(Some(&format!("[server]\nDigestDB = {dsn}\n")));
        let problems = home.problems(&[]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("set Engine to redis or mysql"), "{problems:?}");
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
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
fn impossible_homedir_is_reported() {
    let home = Home::new(None);
    assert_eq!(home.problems(&["--homedir", ""]), ["--homedir: the path of the homedir is empty"]);
    let problems = home.problems(&["--homedir", "/nonexistent/a/b"]);
    assert_eq!(
        problems,
        [
            "/nonexistent/a/b: cannot create the homedir, because its parent directory does not exist: create that first, or mount its disk"
        ]
    );
    assert_eq!(home.problems(&["--homedir", "/dev/null"]), ["/dev/null: the homedir is not a directory"]);
    assert_eq!(
        home.problems(&["--homedir", "/dev/null/x"]),
        ["/dev/null/x: cannot create the homedir, because its parent is not a directory"]
    );
    let problems = home.problems(&["--homedir", "/dev/null/x/y"]);
    assert_eq!(problems, ["/dev/null/x/y: cannot reach the homedir: Not a directory (os error 20)"]);
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
            "HOME/config:2: Threads: 'yes' means False, because only 'True', in any case, means True: write True or False",
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
fn bad_values_of_forwarding_are_reported() {
    let home = Home::new(Some(
        "[server]\nForwardClientHomeDir = /x\nForwardOps = report, check\nForwardDelay = 61\nForwardRetries = 6\nForwardQueue = 9\nForwardRate = 0\nForwardFrom = bob 192.0.2.0/99\nForwardOrigin = 12\n",
    ));
    assert_eq!(
        home.problems(&[]),
        [
            "HOME/config:3: ForwardOps: unknown value 'check': expected one of report, whitelist",
            "HOME/config:4: ForwardDelay: 61 is more than the maximum of 60",
            "HOME/config:5: ForwardRetries: 6 is more than the maximum of 5",
            "HOME/config:6: ForwardQueue: 9 is less than the minimum of 10",
            "HOME/config:7: ForwardRate: 0 is less than the minimum of 1",
            "HOME/config:8: ForwardFrom: '192.0.2.0/99' is not a network: expected an address like 192.0.2.1, or 192.0.2.0/24, or 2001:db8::/32",
            "HOME/config:9: ForwardOrigin: '12': expected 16 hexadecimal digits",
        ]
    );
    let home = Home::new(Some("[server]\nForwardOps =\nForwardFrom = 192.0.2.9/24\n"));
    let (problems, warnings) = home.messages(&[]);
    assert_eq!(
        problems,
        ["HOME/config:2: ForwardOps: the value is empty: expected some of report, whitelist"]
    );
    assert_eq!(
        warnings,
        ["HOME/config:3: ForwardFrom: 192.0.2.9/24 is not the start of a network: using 192.0.2.0/24"]
    );
    let home = Home::new(Some("[server]\nForwardFrom = bob, 10.0.0.256\n"));
    assert_eq!(
        home.problems(&[]),
        [
            "HOME/config:2: ForwardFrom: '10.0.0.256' is not a network: expected an address like 192.0.2.1, or 192.0.2.0/24, or 2001:db8::/32"
        ]
    );
    let home = Home::new(Some("[server]\nForwardFrom = anonymous 0.0.0.0/0\n"));
    let warning = |entry: &str| {
        format!(
            "HOME/config:2: ForwardFrom: {entry} may include servers that this one forwards to: reports would circulate between them and be counted again and again: name only senders to which no report goes back"
        )
    };
    assert_eq!(home.messages(&[]), (Vec::new(), vec![warning("anonymous"), warning("0.0.0.0/0")]));
}

#[test]
fn bad_values_of_second_opinions_are_reported() {
    let home = Home::new(Some(
        "[server]\nUpstreamTimeout = 0\nUpstreamCache = 1000001\nUpstreamCacheAge = 0\nUpstreamMissAge = 31536001\nUpstreamRate = 0\n",
    ));
    assert_eq!(
        home.problems(&[]),
        [
            "HOME/config:2: UpstreamTimeout: 0 is less than the minimum of 1",
            "HOME/config:3: UpstreamCache: 1000001 is more than the maximum of 1000000",
            "HOME/config:4: UpstreamCacheAge: 0 is less than the minimum of 1",
            "HOME/config:5: UpstreamMissAge: 31536001 is more than the maximum of 31536000",
            "HOME/config:6: UpstreamRate: 0 is less than the minimum of 1",
        ]
    );
    let home = Home::new(Some("[server]\nUpstreamTimeout = 0.5\nUpstreamHomeDir = /x # central\n"));
    assert_eq!(
        home.messages(&[]),
        (
            vec!["HOME/config:2: UpstreamTimeout: '0.5' is not a whole number".to_owned()],
            vec![
                "HOME/config:3: UpstreamHomeDir: the file name '/x # central' includes a comment: put the comment on a line of its own"
                    .to_owned()
            ]
        )
    );
}
