//! The health of every server, for people and programs to read.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{Health, Place, now_ms, standing::Standing};
use crate::{
    edge::organisation::Organisation,
    routing::{protocol::Protocol, topology::ServerId},
};

/// The health of every server that clients' requests go to, as it is at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the topology's order.
    pub servers: Vec<ServerReport>,
}

/// The health of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// Its name.
    pub name: String,
    /// The name of its site; Exchange 2003 servers have none.
    pub site: Option<String>,
    /// Its generation, such as `Exchange 2007`; `None`: its version says nothing.
    pub generation: Option<String>,
    /// Whether it is reached at any of its places.
    pub alive: bool,
    /// Why not, in words that follow its name.
    pub reason: Option<String>,
    /// Since when it has been so, in seconds since 1970. From the start of the edge on, if it was never otherwise.
    pub since: u64,
    /// Requests that it is busy with.
    pub load: usize,
    /// Those of its virtual directories that clients could be sent to.
    pub virtual_directories: Vec<DirectoryReport>,
}

/// The health of one virtual directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryReport {
    /// The protocol it serves.
    pub protocol: &'static str,
    /// Its path, such as `/owa`.
    pub path: &'static str,
    /// Whether it gets requests.
    pub alive: bool,
    /// Whether checks ask for it; else only what is known of its server decides.
    pub checked: bool,
    /// Why it gets none, in words that follow its path, or its server's name where that is not reached.
    pub reason: Option<String>,
    /// As [`ServerReport::since`].
    pub since: u64,
}

/// What stands, why, and since when.
type Words = (bool, Option<String>, SystemTime);

impl Report {
    /// The organisation's, now.
    pub fn of(organisation: &Organisation) -> Report {
        let ids = (0..organisation.topology.servers().len()).map(ServerId);
        Report { servers: ids.filter_map(|id| organisation.health.report(id, organisation)).collect() }
    }
}

impl Health {
    fn report(&self, id: ServerId, organisation: &Organisation) -> Option<ServerReport> {
        let (server, of_directory) = (organisation.topology.server(id), &self.servers[id.0]);
        let reached = |protocol| organisation.target(id, protocol).is_some();
        // It is alive if any place is; else the first place's reason is as good as another's.
        let mut places: Vec<_> = of_directory.places.iter().map(|place| words(&place.standing)).collect();
        places.sort_by_key(|(alive, _, _)| !alive);
        let (mut alive, mut reason, since) = places.into_iter().next()?;
        if !Protocol::ALL.into_iter().any(reached) {
            (alive, reason) = (false, Some(UNRESOLVED.to_owned()));
        }
        let virtual_directories = Protocol::ALL
            .into_iter()
            .filter(|protocol| organisation.may_be_sent_to(id, *protocol))
            .filter_map(|protocol| {
                let (place, directory) = self.way(id, protocol)?;
                Some(directory_report(protocol, place, directory, reached(protocol)))
            })
            .collect();
        Some(ServerReport {
            name: server.name.clone(),
            site: server.site.map(|site| organisation.topology.site(site).name.clone()),
            generation: server.version.generation().map(|generation| generation.to_string()),
            alive,
            reason,
            since: seconds(since),
            load: of_directory.load.load(Relaxed),
            virtual_directories,
        })
    }
}

fn directory_report(
    protocol: Protocol,
    place: &Place,
    directory: Option<&Standing>,
    is_reached: bool,
) -> DirectoryReport {
    let of_place = words(&place.standing);
    let (mut alive, mut reason, mut since) = of_place;
    if let (true, Some(directory)) = (alive, directory) {
        let of_directory = words(directory);
        since = since.max(of_directory.2);
        (alive, reason) = (of_directory.0, of_directory.1);
    }
    if !is_reached {
        (alive, reason) = (false, Some(UNRESOLVED.to_owned()));
    }
    let (name, path) = (protocol.name(), protocol.directory_path());
    DirectoryReport { protocol: name, path, alive, checked: directory.is_some(), reason, since: seconds(since) }
}

fn words(standing: &Standing) -> Words {
    let record = standing.record();
    let alive = standing.is_in(now_ms);
    (alive, record.reason.filter(|_| !alive), record.since)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

const UNRESOLVED: &str = "has a name that could not be resolved";
