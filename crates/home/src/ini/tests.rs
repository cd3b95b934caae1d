use super::*;

fn values(text: &str) -> Vec<(String, String, usize)> {
    let document = IniDocument::parse(text.as_bytes(), "config").unwrap();
    document
        .section("server")
        .iter()
        .map(|value| (value.name.clone(), value.text.clone(), value.line))
        .collect()
}

fn problems(text: &[u8]) -> Vec<String> {
    IniDocument::parse(text, "config").unwrap_err().iter().map(ToString::to_string).collect()
}

fn value(name: &str, text: &str, line: usize) -> (String, String, usize) {
    (name.to_owned(), text.to_owned(), line)
}

#[test]
fn both_separators_and_comment_lines_are_read() {
    let text = "\u{feff}# comment\n[client]\nPort = 1\n[server]\r\n; comment\nPort = 2 # x\n  # comment\nEngine: gdbm\r\nLogFile =\nurl = a:b=c\n";
    assert_eq!(
        values(text),
        [
            value("Port", "2 # x", 6),
            value("Engine", "gdbm", 8),
            value("LogFile", "", 9),
            value("url", "a:b=c", 10)
        ]
    );
    assert_eq!(values("[SERVER]\nPort = 1\n"), []);
    assert_eq!(values("[server]\rPort = 1\rEngine = x"), [value("Port", "1", 2), value("Engine", "x", 3)]);
}

#[test]
fn indented_lines_continue_a_value() {
    assert_eq!(
        values("[server]\na = 1\n  2\n# no\n\n  3\n\nb = 4\n"),
        [value("a", "1\n2\n\n3", 2), value("b", "4", 8)]
    );
    assert_eq!(values("[server]\n  a = 1\n  b = 2\n"), [value("a", "1", 2), value("b", "2", 3)]);
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    assert_eq!(
        problems(b"Port = 1\n[server]\nPort\n= 2\nport = 3\nPORT = 4\n\xff\n[server]\n"),
        [
            "config:1: text before the first section: put the options under a section, such as [server]",
            "config:3: expected 'option = value', but there is no '='",
            "config:4: the option name before the '=' is missing",
            "config:6: duplicate option PORT, first set on line 5",
            "config:7: the line is not UTF-8",
            "config:8: duplicate section [server]",
        ]
    );
}

#[test]
fn duplicates_that_may_be_keys_are_not_shown() {
    const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";
    let problems = problems("[KEY]\nKEY = 1\nKEY = 2\n[KEY]\n".replace("KEY", KEY).as_bytes());
    let hidden = "(not shown, because it may be a key)";
    let expected = [
        format!("config:3: duplicate option {hidden}, first set on line 2"),
        format!("config:4: duplicate section [{hidden}]"),
    ];
    assert_eq!(problems, expected);
}

#[test]
fn references_are_replaced_and_a_lone_percent_sign_is_kept() {
    let document = IniDocument::parse(
        b"[DEFAULT]\nbase = /var\nport = 1\n[server]\nPort = 2\nloop = %(loop)s\n",
        "config",
    )
    .unwrap();
    let others = |name: &str| (name == "engine").then(|| "gdbm".to_owned());
    let resolved = |text: &str| document.interpolate("server", text, &others);
    assert_eq!(
        resolved("%(base)s/%(PORT)s/%(engine)s/100%%/50%/%(x/%").unwrap(),
        "/var/2/gdbm/100%/50%/%(x/%"
    );
    assert_eq!(
        resolved("%(none)s").unwrap_err(),
        "%(none)s refers to an unknown option: for a plain % write %%"
    );
    assert!(resolved("%(loop)s").unwrap_err().contains("circular"));
    assert!(resolved("%(two\nlines)s").unwrap_err().starts_with("%(two\\nlines)s"));
}

#[test]
fn references_that_multiply_are_refused() {
    let doubling: String = ('a'..'j')
        .map(|name| format!("{name} = {0}{0}\n", format!("%({})s", (name as u8 + 1) as char).repeat(8)))
        .collect();
    for last in ["", "x", &"long".repeat(10_000)] {
        let text = format!("[server]\n{doubling}j = {last}\nk = %(j)s%(j)s\n");
        let document = IniDocument::parse(text.as_bytes(), "config").unwrap();
        let resolved = |text: &str| document.interpolate("server", text, &|_| None);
        assert!(resolved("%(a)s").is_err(), "{last:?}");
        assert_eq!(resolved("%(k)s").is_err(), last.len() > 1, "{last:?}");
    }
}
