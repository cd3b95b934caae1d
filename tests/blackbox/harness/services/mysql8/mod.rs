//! A proxy that authenticates clients as MySQL 8 does, with `caching_sha2_password`, and forwards their statements to a
//! MariaDB server, which does not support that. MySQL 8 itself is not in Debian.
//!
//! Follows the description of the protocol in MySQL's source documentation: "Protocol::HandshakeV10",
//! "Protocol::AuthSwitchRequest" and "Caching_sha2_password information".

mod login;
mod wire;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Certificate, MariaDb};
use crate::harness::services::mysql8::login::{
    CONNECT_WITH_DB, Login, Nonce, caching_proof, disclosed, native_proof, xor,
};
use crate::harness::services::mysql8::wire::{Wire, receive, relay, send};
use crate::harness::{eventually, free_port, hex, run};

/// The only account.
pub(crate) const USER: &str = "counter";

pub(crate) const PASSWORD: &str = "secret, of 20 letters";

const CACHING: &str = "caching_sha2_password";

const NATIVE: &str = "mysql_native_password";

const CLEAR: &str = "mysql_clear_password";

const SSL: u32 = 1 << 11;

/// The capabilities that MySQL 8 and MariaDB have in common.
const CAPABILITIES: u32 = 0x1 // as MySQL
    | 0x2 | 0x4 | CONNECT_WITH_DB
    | 1 << 9 // the protocol since 4.1
    | 1 << 13 // transactions
    | 1 << 15 // safe authentication
    | 1 << 16 | 1 << 17 | 1 << 18 // several statements and results
    | 1 << 19 | 1 << 21 // authentication by plugins
    | 1 << 24; // no EOF packets

/// The authentication plugin of the account.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Plugin {
    /// The default of MySQL 8.
    #[default]
    Caching,
    /// The default of MariaDB and of older MySQL.
    Native,
    /// Demands the password in plain text on any connection. Only used by switching from another plugin.
    Clear,
}

impl Plugin {
    fn name(self) -> &'static str {
        match self {
            Self::Caching => CACHING,
            Self::Native => NATIVE,
            Self::Clear => CLEAR,
        }
    }
}

/// The way in which the proxy authenticates clients.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    pub(crate) plugin: Plugin,
    /// Whether the password's hash is cached, so that a proof is sufficient.
    pub(crate) is_cached: bool,
    /// Whether the greeting names another plugin, from which the proxy then switches.
    pub(crate) switches: bool,
    /// Whether TLS is offered.
    pub(crate) tls: bool,
}

/// A running proxy. On drop its files are removed, and it stops accepting clients.
pub(crate) struct MySql8 {
    port: u16,
    shared: Arc<Shared>,
    directory: TempDir,
    certificate: Certificate,
    mariadb: MariaDb,
}

struct Shared {
    manner: Manner,
    directory: PathBuf,
    tls: Arc<ServerConfig>,
    mariadb: PathBuf,
    is_over: AtomicBool,
    /// Whether an invalid public key is sent instead of the key.
    is_keyless: AtomicBool,
    /// Number of invalid keys sent.
    broken_keys: AtomicU32,
    /// Number of times that all clients have been disconnected.
    dismissals: AtomicU32,
    /// Number of nonces generated.
    nonces: AtomicU32,
    /// Number of connected clients.
    clients: AtomicUsize,
    /// Number of logins by a proof, by the encrypted password, and by the plain password.
    proofs: AtomicU32,
    encrypted: AtomicU32,
    plain: AtomicU32,
    /// Errors of clients, except for disconnecting.
    faults: Mutex<Vec<String>>,
}

impl MySql8 {
    /// Starts a proxy and its MariaDB server with the database `pyzor`.
    pub(crate) fn start(manner: Manner) -> Self {
        // Fails if another test has done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mariadb = MariaDb::start();
        let directory = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        let mut openssl = Command::new("openssl");
        let made =
            run(openssl.args(["genrsa", "-out", "key.pem", "2048"]).current_dir(directory.path()), b"");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let socket = UnixListener::bind(directory.path().join("socket")).unwrap();
        let certificate = Certificate::new();
        let shared = Arc::new(Shared {
            manner,
            directory: directory.path().to_owned(),
            tls: tls(&certificate),
            mariadb: mariadb.socket(),
            is_over: AtomicBool::new(false),
            is_keyless: AtomicBool::new(false),
            broken_keys: AtomicU32::new(0),
            dismissals: AtomicU32::new(0),
            nonces: AtomicU32::new(0),
            clients: AtomicUsize::new(0),
            proofs: AtomicU32::new(0),
            encrypted: AtomicU32::new(0),
            plain: AtomicU32::new(0),
            faults: Mutex::default(),
        });
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (by_tcp, by_socket) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || by_tcp.admit(listener.incoming().flatten().map(Wire::Tcp)));
        thread::spawn(move || by_socket.admit(socket.incoming().flatten().map(Wire::Socket)));
        Self { port, shared, directory, certificate, mariadb }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Returns the certificate of the authority that has issued the proxy's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.certificate.authority()
    }

    /// Returns the MariaDB server behind the proxy.
    pub(crate) fn mariadb(&self) -> &MariaDb {
        &self.mariadb
    }

    /// Sets whether an invalid public key is sent instead of the key, and disconnects all clients.
    pub(crate) fn set_keyless(&self, is_keyless: bool) {
        self.shared.is_keyless.store(is_keyless, Ordering::SeqCst);
        self.shared.dismissals.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of invalid keys sent.
    pub(crate) fn broken_keys(&self) -> u32 {
        self.shared.broken_keys.load(Ordering::SeqCst)
    }

    /// Waits until all clients have disconnected, and asserts that none failed. Returns whether any logged in by a
    /// proof, by the encrypted password, and by the plain password.
    pub(crate) fn ways(&self) -> [bool; 3] {
        eventually("the last client to disconnect", || {
            (self.shared.clients.load(Ordering::SeqCst) == 0).then_some(())
        });
        let faults = self.shared.faults.lock().unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        [&self.shared.proofs, &self.shared.encrypted, &self.shared.plain]
            .map(|count| count.load(Ordering::SeqCst) > 0)
    }
}

impl Drop for MySql8 {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // The accepting threads check the flag after each connection: make one.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = UnixStream::connect(self.socket());
    }
}

fn tls(certificate: &Certificate) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(certificate.server()).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
    Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
}

impl Shared {
    /// Serves each client in its own thread, until the proxy is dropped.
    fn admit(self: Arc<Self>, clients: impl Iterator<Item = Wire>) {
        for client in clients {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let shared = Arc::clone(&self);
            shared.clients.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                let _connected = Connected(&shared.clients);
                if let Err(error) = shared.serve(client)
                    && !matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                    )
                {
                    shared.faults.lock().unwrap().push(error.to_string());
                }
            });
        }
    }

    fn serve(&self, mut client: Wire) -> std::io::Result<()> {
        let dismissals = self.dismissals.load(Ordering::SeqCst);
        client.set_read_timeout(Duration::from_secs(10))?;
        let plugin = self.manner.plugin;
        let switches = self.manner.switches || plugin == Plugin::Clear;
        let first = match plugin {
            plugin if !switches => plugin,
            Plugin::Caching => Plugin::Native,
            Plugin::Native | Plugin::Clear => Plugin::Caching,
        };
        let nonce = self.nonce();
        let capabilities = CAPABILITIES | if self.manner.tls { SSL } else { 0 };
        let [low, lower, high, higher] = capabilities.to_le_bytes();
        let greeting: [&[u8]; 10] = [
            b"\x0a8.0.36\0",
            &[1, 0, 0, 0],
            &nonce[..8],
            &[0, low, lower, 255, 2, 0, high, higher, 21],
            &[0; 10],
            &nonce[8..],
            b"\0",
            first.name().as_bytes(),
            b"\0",
            b"",
        ];
        send(&mut client, 0, &greeting.concat())?;
        let (mut number, mut answer) = receive(&mut client)?;
        if answer.len() == 32 {
            // A packet of this length is a request for TLS.
            let Wire::Tcp(stream) = client else { return Err(ErrorKind::InvalidData.into()) };
            let tls = ServerConnection::new(Arc::clone(&self.tls)).unwrap();
            client = Wire::Tls(Box::new(StreamOwned::new(tls, stream)));
            (number, answer) = receive(&mut client)?;
        }
        let mut login = Login::parse(&answer, nonce);
        if switches {
            login.nonce = self.nonce();
            let switch = [b"\xfe", plugin.name().as_bytes(), b"\0", &login.nonce, b"\0"].concat();
            send(&mut client, number + 1, &switch)?;
            (number, login.proof) = receive(&mut client)?;
        }
        let number = match self.authenticate(&mut client, number, &login)? {
            (number, true) => number,
            (number, false) => {
                return send(
                    &mut client,
                    number,
                    b"\xff\x15\x04#28000Access denied for user (using password: YES)",
                );
            }
        };
        let mut server = self.log_in(&login)?;
        send(&mut client, number, &[0, 0, 0, 2, 0, 0, 0])?;
        relay(&mut client, &mut server, || self.dismissals.load(Ordering::SeqCst) > dismissals)
    }

    /// Returns a new nonce.
    fn nonce(&self) -> Nonce {
        let number = self.nonces.fetch_add(1, Ordering::SeqCst);
        let digits = hex(&Sha256::digest(number.to_be_bytes()));
        digits.as_bytes()[..20].try_into().unwrap()
    }

    /// Authenticates a client. Returns the number of the next packet, and whether the login is accepted.
    fn authenticate(&self, client: &mut Wire, number: u8, login: &Login) -> std::io::Result<(u8, bool)> {
        let is_user = login.user == USER;
        let decide = |number: u8, is_proven: bool, way: &AtomicU32| {
            let is_let_in = is_user && is_proven;
            way.fetch_add(is_let_in.into(), Ordering::SeqCst);
            Ok((number, is_let_in))
        };
        match self.manner.plugin {
            Plugin::Caching => {}
            Plugin::Native => {
                return decide(number + 1, login.proof == native_proof(&login.nonce), &self.proofs);
            }
            Plugin::Clear => return Err(disclosed()),
        }
        if self.manner.is_cached && is_user && login.proof == caching_proof(&login.nonce) {
            send(client, number + 1, b"\x01\x03")?;
            return decide(number + 2, true, &self.proofs);
        }
        // Demands the password itself. MySQL also does this after a wrong proof.
        send(client, number + 1, b"\x01\x04")?;
        let (number, answer) = receive(client)?;
        let expected = [PASSWORD.as_bytes(), b"\0"].concat();
        if client.is_safe() {
            return decide(number + 1, answer == expected, &self.plain);
        }
        if answer != [2] {
            return Err(disclosed());
        }
        let mut key = self.openssl(&["rsa", "-in", "key.pem", "-pubout"], b"");
        if self.is_keyless.load(Ordering::SeqCst) {
            self.broken_keys.fetch_add(1, Ordering::SeqCst);
            key = b"no key".to_vec();
        }
        send(client, number + 1, &[b"\x01", key.as_slice()].concat())?;
        let (number, answer) = receive(client)?;
        let padding = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha1"];
        let masked =
            self.openssl(&[&["pkeyutl", "-decrypt", "-inkey", "key.pem"], &padding[..]].concat(), &answer);
        decide(number + 1, xor(&masked, &login.nonce) == expected, &self.encrypted)
    }

    fn openssl(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = run(Command::new("openssl").args(arguments).current_dir(&self.directory), input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Connects to the MariaDB server as root, with the client's capabilities and database.
    fn log_in(&self, login: &Login) -> std::io::Result<UnixStream> {
        let mut server = UnixStream::connect(&self.mariadb)?;
        server.set_read_timeout(Some(Duration::from_secs(10)))?;
        receive(&mut server)?;
        let capabilities = login.capabilities & CAPABILITIES;
        let mut answer = [capabilities.to_le_bytes(), (1_u32 << 24).to_le_bytes()].concat();
        answer.push(45);
        answer.extend([0; 23]);
        answer.extend(b"root\0\0");
        if capabilities & CONNECT_WITH_DB != 0 {
            answer.extend(login.database.as_bytes());
            answer.push(0);
        }
        answer.extend(NATIVE.as_bytes());
        answer.push(0);
        send(&mut server, 1, &answer)?;
        match receive(&mut server)?.1.as_slice() {
            [0, ..] => Ok(server),
            refusal => Err(std::io::Error::other(refusal.escape_ascii().to_string())),
        }
    }
}

/// A guard that counts a connected client until it is dropped.
struct Connected<'a>(&'a AtomicUsize);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
