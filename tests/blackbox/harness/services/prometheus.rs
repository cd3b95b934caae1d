//! Private Prometheus servers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::Service;
use crate::harness::{free_port, http_get};

/// The server, which `tests/setup.sh` unpacks.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/prometheus/usr/bin/prometheus");

/// A Prometheus server that scrapes one address every 100 ms.
pub(crate) struct Prometheus {
    _service: Service,
    address: SocketAddr,
}

impl Prometheus {
    /// Returns the program `promtool`.
    pub(crate) fn promtool() -> PathBuf {
        Path::new(PROGRAM).with_file_name("promtool")
    }

    /// Starts a server that scrapes this address as the job `pyzord`, and waits until it answers queries.
    pub(crate) fn scraping(target: SocketAddr) -> Self {
        let mut service = Service::new(PROGRAM);
        let config = service.directory().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 100ms, scrape_timeout: 100ms }}\n\
             scrape_configs: [{{ job_name: pyzord, static_configs: [{{ targets: ['{target}'] }}] }}]\n"
        );
        std::fs::write(&config, text).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        service.set_arguments(vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", service.directory().join("data").display()),
            format!("--web.listen-address={address}"),
        ]);
        service.start(|| {
            std::net::TcpStream::connect(address).is_ok() && http_get(address, "/-/ready").code == 200
        });
        Self { _service: service, address }
    }

    /// Evaluates an expression, and returns the value of the single series, or none if there is none.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Option<f64> {
        let query = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let answer = self.api(&format!("query?query={query}"));
        let series = answer["result"].as_array().unwrap();
        assert!(series.len() <= 1, "{expression}: {answer}");
        series.first()?["value"][1].as_str().unwrap().parse().ok()
    }

    /// Returns the data of the answer to a request of the API.
    #[track_caller]
    pub(crate) fn api(&self, request: &str) -> Value {
        let response = http_get(self.address, &format!("/api/v1/{request}"));
        assert_eq!(response.code, 200, "{request}: {}", response.body);
        // The answers that tests ask for are so short that they are not sent in chunks.
        response.json()["data"].take()
    }
}
