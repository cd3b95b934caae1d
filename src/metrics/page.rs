//! Responses.

use std::fmt;

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

use super::route::{Format, HttpRefusal, Page, route};
use super::snapshot::Snapshot;
use super::{Observed, Transport};
use crate::control::reply::Health;

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns the response to a request. For `HEAD`, hyper leaves the body out.
pub(super) fn respond<B>(
    request: &Request<B>,
    transport: Transport,
    observed: &dyn Observed,
) -> Response<String> {
    let (code, media, body) = match route(request, transport) {
        Ok(page) => render(page, observed),
        Err(refusal) => (refusal.code(), PLAIN, format!("{refusal}\n")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code == HttpRefusal::Method.code() {
        fields.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn render(page: Page, observed: &dyn Observed) -> (StatusCode, &'static str, String) {
    let rendered = match page {
        Page::Metrics(format) => metrics(format, observed).ok(),
        Page::Health => {
            let health = observed.status().health;
            let code =
                if health < Health::Critical { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Some((code, PLAIN, format!("{}\n", name(health))))
        }
        Page::Stats => serde_json::to_string(&observed.stats())
            .ok()
            .map(|json| (StatusCode::OK, "application/json", format!("{json}\n"))),
    };
    rendered.unwrap_or((StatusCode::INTERNAL_SERVER_ERROR, PLAIN, String::new()))
}

fn metrics(
    format: Format,
    observed: &dyn Observed,
) -> Result<(StatusCode, &'static str, String), fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::of(observed)));
    let mut page = String::new();
    let media = match format {
        Format::OpenMetrics => {
            text::encode(&mut page, &registry)?;
            OPEN_METRICS
        }
        Format::Prometheus => {
            prometheus_text::encode(&mut page, &registry)?;
            prometheus_text::CONTENT_TYPE
        }
    };
    Ok((StatusCode::OK, media, page))
}

/// The name of a state of health, as in the replies of the control socket.
fn name(health: Health) -> &'static str {
    match health {
        Health::Well => "well",
        Health::Degraded => "degraded",
        Health::Critical => "critical",
    }
}
