//! `p2pfs ui`: what can be typed.

use clap::Args;

use super::Which;

#[derive(Debug, Args)]
#[command(after_help = "The volume's daemon serves the page, on this machine only, until the volume is unmounted.\n\
    What is printed lets one browser in, once, and for a minute.")]
pub(crate) struct Ui {
    /// Only print the address, and open no browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Serve it at this port [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// The process that a daemon starts to serve it
    #[arg(long, hide = true)]
    pub(crate) server: bool,
}
