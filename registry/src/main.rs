//! `p2pfs-registry`: runs the registry until it is told to end.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use p2pfs_registry::limits::Limits;
use p2pfs_registry::server::Server;
use p2pfs_registry::{key, metrics};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The service through which p2pfs peers find each other.
///
/// Prints ADDR:PORT#KEY, which is what peers need, once it serves. Exits with 0 when told to end (SIGTERM, SIGINT), 1
/// when it failed, 2 on wrong usage.
#[derive(Debug, Parser)]
#[command(name = "p2pfs-registry", version)]
struct Arguments {
    /// Where to listen (UDP).
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:4477")]
    listen: SocketAddr,
    /// Folder for the registry's key [default: $STATE_DIRECTORY, else ./p2pfs-registry].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Serve Prometheus metrics over HTTP there; not on a loopback address, whoever reaches it may read them
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("p2pfs-registry: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    // systemd separates several folders by colons; ours is the first.
    let from_systemd = || {
        let folders = std::env::var("STATE_DIRECTORY").ok()?;
        folders.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
    };
    let state = arguments.state.clone().or_else(from_systemd).unwrap_or_else(|| PathBuf::from("p2pfs-registry"));
    let keys = key::load_or_create(&state).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(serve(&arguments, &keys))
}

async fn serve(arguments: &Arguments, keys: &crypto::SigningKeys) -> Result<(), String> {
    // Before the address is printed: whoever reads it may send a signal at once.
    let signals = || Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
    let (mut terminate, mut interrupt) = signals().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let server = Server::start(keys, arguments.listen, Limits::default()).map_err(|error| error.to_string())?;
    if let Some(address) = arguments.metrics {
        let listener =
            TcpListener::bind(address).await.map_err(|error| format!("cannot serve metrics on {address}: {error}"))?;
        let (count, started) = (server.counter(), SystemTime::now());
        tokio::spawn(peer_net::metrics::serve(listener, move || {
            let page = metrics::page(&count(), started);
            async move { page }
        }));
    }
    print_address(&server).map_err(|error| format!("cannot print the address: {error}"))?;
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        log::warn!("cannot tell systemd that the registry is ready: {error}");
    }
    log::info!("serving on {}", arguments.listen);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info!("ending");
    server.shutdown().await;
    Ok(())
}

fn print_address(server: &Server) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.address())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::CommandFactory;
    use clap_mangen::Man;

    /// Like those of `p2pfs` (`fs-mount/src/cli/manual.rs`).
    #[test]
    fn the_manual_has_every_option_as_it_is() {
        let page = Man::new(Arguments::command()).section("8").source("p2pfs").manual("p2pfs");
        let mut text = Vec::new();
        page.render(&mut text).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/man/p2pfs-registry.8");
        if std::env::var_os("P2PFS_WRITE_MANUAL").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(std::fs::read(path).unwrap() == text, "{path} is not that of the options: fs-mount/src/cli/manual.rs");
    }
}
