//! Starts under a service manager in which a system call fails.

use std::process::Command;

use crate::harness::Home;
use crate::ours::managed::exit_codes::{CONFIGURATION, expect};

/// Returns the command of a server under strace with these options.
fn traced(home: &Home, server: &Command, options: &[&str]) -> Command {
    let mut command = home.mark(Command::new("strace"));
    command.args(["-f", "-qq", "-o"]).arg(home.parent().join("trace")).args(options).arg("--");
    command.arg(server.get_program()).args(server.get_args());
    command
}

#[test]
fn config_file_that_cannot_be_read_now_is_read_by_a_later_start() {
    for (error, code) in [
        ("EIO", 1),
        ("EMFILE", 1),
        ("ENFILE", 1),
        ("ESTALE", 1),
        ("ETIMEDOUT", 1),
        ("ENOMEM", 1),
        ("EACCES", CONFIGURATION),
        ("ELOOP", CONFIGURATION),
    ] {
        let home = Home::open();
        let config = home.path("config").display().to_string();
        // A port that only the config file of a later start could correct.
        for arguments in [&[][..], &["-p", "70000"]] {
            let mut server = home.command();
            server.args(arguments);
            let injection = format!("inject=openat:error={error}");
            expect(|| traced(&home, &server, &["-P", &config, "-e", &injection]), code);
        }
    }
    let home = Home::open();
    let config = home.path("config").display().to_string();
    expect(|| traced(&home, &home.command(), &["-P", &config, "-e", "inject=read:error=EIO"]), 1);
}

/// Starts as root that become another user.
mod root {
    use super::traced;
    use crate::ours::managed::exit_codes::expect;
    use crate::ours::managed::root::home_of_nobody;

    #[test]
    fn user_that_cannot_be_assumed_now_is_assumed_by_a_later_start() {
        for call in ["setgroups", "setresgid", "setresuid"] {
            for error in ["EAGAIN", "ENOMEM"] {
                let home = home_of_nobody();
                let injection = format!("inject={call}:error={error}");
                let command = || traced(&home, &home.command(), &["-e", &injection]);
                expect(command, 1);
            }
        }
    }

    #[test]
    fn user_database_that_cannot_be_read_leaves_no_homedir_of_root() {
        let home = home_of_nobody();
        let homedir = home.parent().join("made");
        let mut server = home.bare();
        server.arg("--homedir").arg(&homedir).args(["-a", "127.0.0.1", "-p", "0", "--user", "daemon"]);
        let options = ["-P", "/etc/passwd", "-e", "inject=openat:error=EIO"];
        expect(|| traced(&home, &server, &options), 1);
        assert!(!homedir.exists());
        expect(|| traced(&home, &server, &["-e", "inject=?chown,fchownat:error=EIO"]), 1);
        assert!(!homedir.exists());
    }
}
