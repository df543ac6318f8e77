//! What tells operators how a daemon is doing: what can be typed for `p2pfs mount` and `keeper`.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::{self, PathBuf},
};

use clap::Args;

use crate::daemon::alerting::{Wanted, find_program, is_program};

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Operating {
    /// Serve metrics for Prometheus at http://127.0.0.1:PORT/metrics, or at another loopback address
    #[arg(long, value_name = "PORT|ADDR:PORT", value_parser = metrics)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Run this program at every new alert: P2PFS_ALERT_KIND, _SURE, _WHO, _TEXT, _ANSWER and _MOUNT tell of it, JSON on
    /// standard input all of it; after 30 seconds it is ended
    #[arg(long, value_name = "PROGRAM", value_parser = program)]
    pub(crate) on_alert: Option<PathBuf>,
    /// Show no notifications on the desktop: of alerts, messages and files that are offered
    #[arg(long)]
    pub(crate) no_notifications: bool,
}

impl Operating {
    /// How the user wants to be told of alerts.
    pub(crate) fn alerts(&self) -> Wanted {
        Wanted { desktop: !self.no_notifications, command: self.on_alert.clone() }
    }
}

/// A program that can be run, by its path, or its name where the shell would look for it.
fn program(text: &str) -> Result<PathBuf, String> {
    let found = match text.contains('/') {
        true => path::absolute(text).ok().filter(|file| is_program(file)),
        false => find_program(text, env::var_os("PATH").as_deref()),
    };
    found.ok_or_else(|| {
        "no such program that you may run (only its path or name goes here: what needs arguments goes into a script)"
            .to_owned()
    })
}

/// Where metrics are served: only to this machine.
fn metrics(text: &str) -> Result<SocketAddr, String> {
    let wanted = "a port of this machine is needed, as 9478, 127.0.0.1:9478 or [::1]:9478";
    let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let address = port.or_else(|_| text.parse::<SocketAddr>()).map_err(|_| wanted.to_owned())?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(format!("other machines would reach that: {wanted}; a scraper elsewhere needs a tunnel"));
    }
    if address.port() == 0 {
        return Err(wanted.to_owned());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_for_this_machine() {
        for (typed, meant) in [
            ("9478", "127.0.0.1:9478"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.9.0.1:80", "127.9.0.1:80"),
            ("[::1]:9478", "[::1]:9478"),
        ] {
            assert_eq!(metrics(typed), Ok(meant.parse().unwrap()));
        }
        for typed in ["0.0.0.0:9478", "[::]:9478", "192.0.2.1:9478", "[::ffff:192.0.2.1]:9478", "[2001:db8::1]:1"] {
            assert!(metrics(typed).unwrap_err().contains("other machines"), "{typed}");
        }
        for typed in
            ["", "0", "65536", "-1", "localhost:9478", "127.0.0.1", "127.0.0.1:0", "::1", "http://127.0.0.1:9478"]
        {
            assert!(metrics(typed).unwrap_err().starts_with("a port"), "{typed}");
        }
    }

    #[test]
    fn a_command_for_alerts_is_a_program() {
        assert!(program("sh").unwrap().ends_with("sh"));
        assert_eq!(program("/bin/sh"), Ok(PathBuf::from("/bin/sh")));
        for typed in ["", "no-such-program", "/bin", "/etc/passwd", "sh -c true", "./sh", "/bin/sh -c true"] {
            assert!(program(typed).unwrap_err().starts_with("no such program"), "{typed}");
        }
    }
}
