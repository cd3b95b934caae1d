//! The commands that a new connection must accept before it is used.

use redis::{Arg, Cmd, Pipeline, RedisError, Value};

use super::connection::{RedisConnection, failure_of, in_words, refusal};
use super::node::NodeRole;
use super::record_form::PROBE;
use super::refusal::RedisRefusal;
use crate::storage::remote::start::ConnectError;

/// Tries commands, and returns an error for the first one that the server refuses for now or that the account may not
/// run. The error names the command. Otherwise returns the reason if the server refuses all changes, but not look-ups.
pub(super) async fn try_commands(
    connection: &mut RedisConnection,
    commands: &[Cmd],
) -> Result<Option<String>, ConnectError> {
    let mut refused = None;
    let mut trial = Pipeline::with_capacity(commands.len());
    for command in commands {
        trial.add_command(command.clone());
    }
    let replies = connection.send_packed_commands(&trial, 0, commands.len()).await;
    for (command, reply) in commands.iter().zip(replies.map_err(|error| failure_of(&error))?) {
        let Value::ServerError(error) = reply else { continue };
        let meaning = RedisRefusal::of(&error);
        let needs_login = error.code() == "NOAUTH";
        let why = in_words(&RedisError::from(error));
        match meaning {
            RedisRefusal::Forbidden if needs_login => return Err(ConnectError::permanent(why)),
            RedisRefusal::Temporary => return Err(ConnectError::temporary(why)),
            RedisRefusal::Forbidden | RedisRefusal::Other => {
                return Err(ConnectError::permanent(format!("{} is refused: {why}", name(command))));
            }
            RedisRefusal::ForbiddenKey => {
                let key = String::from_utf8_lossy(PROBE);
                return Err(ConnectError::permanent(format!(
                    "{} is refused for the key {key}: allow the account the keys pyzord.*",
                    name(command)
                )));
            }
            // The account may run the command. Other refusals are logged when they happen to requests.
            RedisRefusal::ReadOnly => refused = Some(why),
            _ => {}
        }
    }
    Ok(refused)
}

/// Returns a command's name, with its subcommand.
fn name(command: &Cmd) -> String {
    let is_name = |word: &&[u8]| word.iter().all(u8::is_ascii_uppercase);
    let words = command.args_iter().map_while(|argument| match argument {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    let words: Vec<_> = words.take(2).take_while(is_name).map(String::from_utf8_lossy).collect();
    words.join(" ")
}

/// Whether the server is a node of a cluster, so that other servers have some of the keys.
pub(super) async fn is_in_cluster(
    connection: &mut RedisConnection,
    role: &NodeRole,
) -> Result<bool, ConnectError> {
    // These keys are in as many slots, spread over the whole range: other nodes have some of them.
    const KEYS: usize = 24;
    // Neither changes anything. Reading alone does not need the right to run PERSIST.
    let is_read = matches!(role, NodeRole::Read);
    let command = if is_read { "EXISTS" } else { "PERSIST" };
    let mut probes = Pipeline::with_capacity(KEYS);
    for number in 0..KEYS {
        probes.cmd(command).arg([PROBE, format!(".{number}").as_bytes()].concat());
    }
    let replies = connection.send_packed_commands(&probes, 0, KEYS).await;
    let refused = |reply: &Value| match reply {
        // An account that may not run EXISTS may still read.
        Value::ServerError(error) => !matches!(error.code(), "MOVED" | "ASK" | "NOPERM" | "CLUSTERDOWN"),
        _ => false,
    };
    if is_read
        && let Ok(replies) = &replies
        && let Some(reply) = replies.iter().find(|reply| refused(reply))
    {
        return Err(refusal(reply).unwrap_or_else(|| ConnectError::temporary("the server refuses")));
    }
    let is_elsewhere =
        |reply: &Value| matches!(reply, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"));
    Ok(replies.map_err(|error| failure_of(&error))?.iter().any(is_elsewhere))
}
