//! Logs go to stderr: text, or JSON with `GRAYFIN_LOG_FORMAT=json`; `GRAYFIN_LOG` filters them.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Ours are the state changes; what libraries tell at `info` is about single connections.
const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,tower=warn,rustls=warn";

/// Starts logging for this process. A second call changes nothing.
pub fn init() {
    let filter =
        EnvFilter::try_from_env("GRAYFIN_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let json = std::env::var("GRAYFIN_LOG_FORMAT").is_ok_and(|format| format == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let outcome = if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        let ansi = std::env::var_os("NO_COLOR").is_none()
            && std::io::IsTerminal::is_terminal(&std::io::stderr());
        registry.with(fmt::layer().with_ansi(ansi).with_writer(std::io::stderr)).try_init()
    };
    // It fails only when logging was set up already, which tests do.
    drop(outcome);
}
