//! How long a request waits while expired records are looked for and deleted.
//!
//! Fills a database with records, a half of which have expired, and asks one check after the
//! other, first without a sweep and then during one. Prints the waiting times of both.
//!
//! `cargo bench --bench sweep_pause [-- RECORDS]`; a million records unless told otherwise.

use std::error::Error;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pyzord::access::{Order, Present, Sources};
use pyzord::digest::Digest;
use pyzord::logging::{self, UsageLog};
use pyzord::record::{Record, Tally, Timestamp};
use pyzord::server::{Parts, Server, socket};
use pyzord::storage::Options;
use pyzord::storage::bulk::{self, Purpose, Put};
use sha1::Digest as _;
use tokio::sync::oneshot;

const MONTH: Duration = Duration::from_secs(30 * 86_400);
const BASELINE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<(), Box<dyn Error>> {
    let records = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir()?;
    let (path, log) = (folder.path().join("pyzord.db"), folder.path().join("log"));
    let _logs = logging::open(Some(&log), None, false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let start = Instant::now();
    fill(&runtime, &path, records)?;
    println!("{records} records written in {:.1} s", start.elapsed().as_secs_f64());

    let quiet = measure(&path, None, records, |elapsed| Ok(elapsed >= BASELINE))?;
    println!("without a sweep: {}", summary(quiet));
    let busy = measure(&path, Some(MONTH), records, |elapsed| {
        if elapsed > PATIENCE {
            return Err("the sweep does not end".into());
        }
        Ok(std::fs::read_to_string(&log)?.contains("Expired "))
    })?;
    println!("during a sweep:  {}", summary(busy));
    let said = std::fs::read_to_string(&log)?;
    println!("the log: {}", said.lines().find(|line| line.contains("Expired ")).unwrap_or("nothing"));
    Ok(())
}

fn digest(number: u32) -> Digest {
    Digest::from_bytes(sha1::Sha1::digest(number.to_be_bytes()).into())
}

fn fill(runtime: &tokio::runtime::Runtime, path: &Path, records: u32) -> Result<(), Box<dyn Error>> {
    let options = Options { path: path.to_owned(), ..Options::default() };
    let now = Timestamp::now();
    let old = Timestamp::from_seconds(now.seconds() - 100 * 86_400);
    runtime.block_on(async {
        let whole = bulk::open("gdbm", &options, Purpose::Fill).await?;
        let put = |number: u32| {
            let time = Some(if number.is_multiple_of(2) { now } else { old });
            let reports = Tally { count: 1, first: time, last: time };
            let record = Record { reports, whitelists: Tally::default() };
            Put { digest: digest(number), record, expires: None, held: None }
        };
        whole.store((0..records).map(put).collect()).await?;
        whole.close().await?;
        Ok(())
    })
}

/// Serves the database and asks for records that have not expired until `enough` is.
fn measure(
    path: &Path,
    age: Option<Duration>,
    records: u32,
    mut enough: impl FnMut(Duration) -> Result<bool, Box<dyn Error>>,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let (stop, stopped) = oneshot::channel::<()>();
    let listening = socket::bind("127.0.0.1", 0)?;
    let address = socket::local_address(&listening)?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(address)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let options = Options { path: path.to_owned(), cleanup_age: age, ..Options::default() };
    let server =
        std::thread::spawn(move || serve(listening, &options, stopped).map_err(|error| error.to_string()));

    let mut waits = Vec::new();
    let start = Instant::now();
    let mut buffer = [0; 1024];
    let mut number = 0;
    loop {
        number = (number + 2 * 7919) % (records & !1);
        let request =
            format!("Op: check\nOp-Digest: {}\nThread: {}\nPV: 2.1\n\n", digest(number), number + 1024);
        let asked = Instant::now();
        client.send(request.as_bytes())?;
        let length = client.recv(&mut buffer)?;
        waits.push(asked.elapsed());
        if !buffer[..length].windows(9).any(|part| part == b"Count: 1\n") {
            return Err(format!("a wrong answer: {}", buffer[..length].escape_ascii()).into());
        }
        if waits.len() % 1000 == 0 && enough(start.elapsed())? {
            break;
        }
    }
    let _ = stop.send(());
    server.join().map_err(|_| "the server died")??;
    Ok(waits)
}

fn serve(
    listening: UdpSocket,
    options: &Options,
    stopped: oneshot::Receiver<()>,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let nowhere = Path::new("/nonexistent").to_owned();
    let sources =
        Sources { passwd: nowhere.clone(), access: nowhere, order: Order::First, order_chosen: true };
    let access = pyzord::access::load(&sources, Present::default())?.authorizer;
    runtime.block_on(async {
        let engine = pyzord::storage::open("gdbm", options).await?;
        let mut server = Server::new(Parts {
            socket: listening,
            access: Arc::new(ArcSwap::from_pointee(access)),
            engine: Arc::clone(&engine),
            usage: UsageLog::none(),
            clock: Timestamp::now,
        })?;
        server
            .serve(async {
                let _ = stopped.await;
            })
            .await;
        engine.close().await;
        Ok(())
    })
}

fn summary(mut waits: Vec<Duration>) -> String {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_micros();
    format!(
        "{} checks one after the other: median {} us, 99.9 % {} us, longest {} us",
        waits.len(),
        at(0.5),
        at(0.999),
        at(1.0)
    )
}
