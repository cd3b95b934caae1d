//! The choice of a page.

use hyper::header::{ACCEPT, HOST};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use thiserror::Error;

use super::Transport;
use super::host::is_address_or_localhost;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Metrics(Format),
    Health,
    Stats,
}

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older format of Prometheus, 0.0.4.
    Prometheus,
}

/// The reason why a request gets no page; the text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum HttpRefusal {
    #[error("send exactly one field Host")]
    HostMissing,
    #[error("send an IP address or localhost as Host: names are refused against DNS rebinding")]
    HostForeign,
    #[error("the pages are /metrics, /healthz and /stats.json")]
    NotFound,
    #[error("the pages can be read only, with GET or HEAD")]
    Method,
}

impl HttpRefusal {
    pub(super) fn code(self) -> StatusCode {
        match self {
            Self::HostMissing => StatusCode::BAD_REQUEST,
            Self::HostForeign => StatusCode::MISDIRECTED_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// Chooses the page for a request. Does not look at its body.
///
/// # Errors
///
/// The request must be refused.
pub(super) fn route<B>(request: &Request<B>, transport: Transport) -> Result<Page, HttpRefusal> {
    // No browser connects to a Unix socket for a web page.
    if transport == Transport::Tcp {
        check_host(request)?;
    }
    let page = match request.uri().path() {
        "/metrics" => Page::Metrics(accepted_format(request.headers())),
        "/healthz" => Page::Health,
        "/stats.json" => Page::Stats,
        _ => return Err(HttpRefusal::NotFound),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) { Ok(page) } else { Err(HttpRefusal::Method) }
}

/// Checks the field `Host`, which HTTP/1.1 requires, and the host of a target that is a whole URL.
fn check_host<B>(request: &Request<B>) -> Result<(), HttpRefusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_address_or_localhost(host.as_bytes()) => {}
        (Some(_), None) => return Err(HttpRefusal::HostForeign),
        (None, None) if request.version() < Version::HTTP_11 => {}
        _ => return Err(HttpRefusal::HostMissing),
    }
    match request.uri().authority() {
        Some(authority) if !is_address_or_localhost(authority.as_str().as_bytes()) => {
            Err(HttpRefusal::HostForeign)
        }
        _ => Ok(()),
    }
}

/// Returns OpenMetrics if the client prefers it to plain text, or the format that every client can read.
fn accepted_format(fields: &HeaderMap) -> Format {
    let ranges = || {
        fields.get_all(ACCEPT).iter().filter_map(|field| field.to_str().ok()).flat_map(|text| text.split(','))
    };
    let quality = |name: &str| {
        let weights = ranges().filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(name));
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            // A weight that is not a number is none.
            is_it.then(|| weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        });
        weights.fold(0.0, f64::max)
    };
    let wanted = quality("application/openmetrics-text");
    if wanted > 0.0 && wanted >= quality("text/plain") { Format::OpenMetrics } else { Format::Prometheus }
}
