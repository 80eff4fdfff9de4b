//! firstcas as a process of its own in front of contoso: for what a test's own process cannot do, such as making place for
//! another one, or having other environment variables.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use crate::harness::{self, House, Plan, until};

/// A process of firstcas, and what it stands in front of; dropping this ends it.
pub struct Process {
    pub child: Child,
    pub house: House,
    pub config: PathBuf,
}

impl Process {
    /// Starts one in front of this house, with further environment variables.
    pub async fn start(house: House, plan: &Plan, environment: &[(&str, &Path)]) -> Process {
        let config = harness::config_file(&house.contoso, &house.folder, plan);
        let log = File::create(house.folder.path().join("log")).expect("a log");
        let mut firstcas = Command::new(FIRSTCAS);
        firstcas.args(["run", "-c"]).arg(&config).stdin(Stdio::null()).stderr(log).envs(environment.iter().copied());
        let child = firstcas.kill_on_drop(true).spawn().expect("firstcas starts");
        let process = Process { child, house, config };
        process.says("firstcas is ready").await;
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.house.folder.path().join("log")).expect("the log")
    }

    /// The first line of the log with this in it.
    pub async fn says(&self, part: &str) -> String {
        let line = || self.log().lines().find(|line| line.contains(part)).map(str::to_owned);
        until(&format!("{part:?} in {}", self.log()), async || line().is_some()).await;
        line().expect("it is there")
    }

    /// Where it listens: plain, TLS.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        ["listening on http://", "listening on https://"].map(|what| {
            let log = self.log();
            let (_, rest) = log.split_once(what).expect("it listens");
            let address = rest.split(|end: char| end == '"' || end.is_whitespace()).next().expect("an address");
            address.parse().expect("an address")
        })
    }
}

pub const FIRSTCAS: &str = env!("CARGO_BIN_EXE_firstcas");
