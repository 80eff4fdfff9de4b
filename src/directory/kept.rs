//! What is kept on disk for a start while the directory is away: the last good topology, and the people that were known.
//!
//! Two files in one folder, each replaced whole or not at all, readable for their owner alone. A first line tells what a
//! file is, of which format, and the hash of the rest, which is JSON:
//!
//! ```text
//! firstcas topology 1 6d4f...
//! {"read_at":1796000000,"from":"ldaps://dc-lis-1.contoso.com", ...}
//! ```
//!
//! A file that is not as it must be is moved aside and never read again; nobody has to mend it, because the next good
//! reading of the directory writes a new one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    iter,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Entry, EntryId, Remembered, Sid};
use crate::{
    identity::MailboxName,
    routing::{
        mailbox::Mailbox,
        protocol::{Protocol, VirtualDirectoryKind},
        topology::{AuthenticationMethods, Server, SiteLink, TopologyParts, VirtualDirectory},
        version::Version,
    },
};

/// The folder and what was written there last.
pub struct Kept {
    folder: PathBuf,
    /// Hash of the people in the file.
    people: Mutex<Option<blake3::Hash>>,
}

/// A topology as it was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTopology {
    /// When it was read from the directory, to the second.
    pub read_at: SystemTime,
    /// The servers it was read from.
    pub from: String,
    /// The topology.
    pub parts: TopologyParts,
    /// Addresses that its hosts and ports had: where the directory is away, DNS often is too.
    pub addresses: HashMap<(String, u16), SocketAddr>,
}

/// Why something could not be kept or read again.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The system did not let it.
    #[error("{} cannot be {what}", .path.display())]
    System {
        /// The file or folder.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not as it must be.
    #[error("{} {problem}; it is not used, and {}", .path.display(), aside(.moved_to.as_deref()))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
        /// Its new name; `None`: it could not be renamed.
        moved_to: Option<PathBuf>,
    },
}

fn aside(moved_to: Option<&Path>) -> String {
    match moved_to {
        Some(path) => format!("lies now at {}", path.display()),
        None => "could not be moved aside, so the next one replaces it".to_owned(),
    }
}

/// What can be wrong with a file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its first line is another.
    #[error("was not written by firstcas")]
    Foreign,
    /// A format of the future.
    #[error("is of format {0}, which this firstcas does not know; one of its version or later wrote it")]
    Format(u32),
    /// The hash does not fit.
    #[error("is damaged or cut short")]
    Damaged,
    /// More than a file of its kind has.
    #[error("is larger than {} MiB", FILE_BYTES_MAX >> 20)]
    TooLarge,
}

impl Kept {
    /// Looks after a folder that is there.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        let kept = Kept { folder: folder.into(), people: Mutex::new(None) };
        kept.sweep();
        kept
    }

    /// Keeps a topology in place of the one before.
    ///
    /// # Errors
    /// [`KeptError::System`]; the one before is then still there.
    pub fn keep_topology(&self, topology: &KeptTopology) -> Result<(), KeptError> {
        self.replace(TOPOLOGY, &encode_topology(topology))
    }

    /// The topology kept last, if there is one.
    ///
    /// # Errors
    /// It cannot be read or used.
    pub fn topology(&self) -> Result<Option<KeptTopology>, KeptError> {
        self.read(TOPOLOGY, decode_topology)
    }

    /// Keeps people in place of those before, if they are others.
    ///
    /// # Errors
    /// [`KeptError::System`]; those before are then still there.
    pub fn keep_people(&self, people: &[Remembered]) -> Result<(), KeptError> {
        let mut last = self.people.lock();
        let bytes = encode_people(people);
        let hash = blake3::hash(&bytes);
        if *last != Some(hash) {
            self.replace(PEOPLE, &bytes)?;
            *last = Some(hash);
        }
        Ok(())
    }

    /// The people kept last; none, if none are.
    ///
    /// # Errors
    /// They cannot be read or used.
    pub fn people(&self) -> Result<Vec<Remembered>, KeptError> {
        Ok(self.read(PEOPLE, decode_people)?.unwrap_or_default())
    }

    /// Written beside, brought to the disk, then renamed: whoever reads sees the old file or the new one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), KeptError> {
        let path = self.folder.join(name);
        let written = || {
            let mut file = tempfile::Builder::new().prefix(BEING_WRITTEN).tempfile_in(&self.folder)?; // mode 0600
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(&self.folder)?.sync_all()
        };
        written().map_err(|source| KeptError::System { path: path.clone(), what: "written", source })
    }

    fn read<T>(&self, name: &str, decode: fn(&[u8]) -> Result<T, Problem>) -> Result<Option<T>, KeptError> {
        let path = self.folder.join(name);
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeptError::System { path, what: "read", source }),
        };
        let decoded = if bytes.len() as u64 > FILE_BYTES_MAX { Err(Problem::TooLarge) } else { decode(&bytes) };
        decoded.map(Some).map_err(|problem| KeptError::Unusable { moved_to: move_aside(&path), path, problem })
    }

    /// Removes what a process that was killed while it wrote has left.
    fn sweep(&self) {
        let old = |entry: &fs::DirEntry| {
            let age = entry.metadata().and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
            age.is_some_and(|age| age > WRITING_TAKES)
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(BEING_WRITTEN) && old(&entry) {
                let _ = fs::remove_file(entry.path()); // it disturbs nobody
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before opening: opening a named pipe would wait for its writer. A link is none of ours either.
    let metadata = path.symlink_metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(io::Error::other("others may write to it"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first free name, or the last one.
fn move_aside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let mut names = (1..=BAD_FILES_MAX).map(|number| path.with_file_name(format!("{name}.bad-{number}")));
    let free = names.find(|other| !other.exists());
    let other = free.unwrap_or_else(|| path.with_file_name(format!("{name}.bad-{BAD_FILES_MAX}")));
    fs::rename(path, &other).ok()?;
    Some(other)
}

/// A topology as the bytes of its file.
pub fn encode_topology(topology: &KeptTopology) -> Vec<u8> {
    let KeptTopology { read_at, from, parts, addresses } = topology;
    let body = TopologyBody {
        read_at: seconds(*read_at),
        from: from.clone(),
        sites: parts.sites.clone(),
        servers: parts.servers.iter().map(ServerBody::of).collect(),
        site_links: parts.site_links.iter().map(|link| (link.sites.clone(), link.cost)).collect(),
        databases: parts.databases.clone(),
        subnets: parts.subnets.iter().map(|(net, site)| (net.to_string(), site.clone())).collect(),
        addresses: addresses.iter().map(|((host, port), address)| (host.clone(), *port, *address)).collect(),
    };
    let mut lines = Lines::default();
    lines.push(&body);
    lines.with_heading(TOPOLOGY_KIND)
}

/// A topology from the bytes of its file.
///
/// # Errors
/// They are not such a file's.
pub fn decode_topology(bytes: &[u8]) -> Result<KeptTopology, Problem> {
    let body: TopologyBody = serde_json::from_slice(body_of(bytes, TOPOLOGY_KIND)?).map_err(|_| Problem::Damaged)?;
    let servers = body.servers.into_iter().map(ServerBody::server).collect::<Option<_>>();
    let subnet = |(net, site): (String, String)| Some((net.parse().ok()?, site));
    let subnets = body.subnets.into_iter().map(subnet).collect::<Option<_>>();
    Ok(KeptTopology {
        read_at: time(body.read_at).ok_or(Problem::Damaged)?,
        from: body.from,
        parts: TopologyParts {
            sites: body.sites,
            servers: servers.ok_or(Problem::Damaged)?,
            site_links: body.site_links.into_iter().map(|(sites, cost)| SiteLink { sites, cost }).collect(),
            databases: body.databases,
            subnets: subnets.ok_or(Problem::Damaged)?,
        },
        addresses: body.addresses.into_iter().map(|(host, port, address)| ((host, port), address)).collect(),
    })
}

/// People as the bytes of their file; of more than fit into it, the first. Servers and databases, which many share, are a
/// list in the first line.
pub fn encode_people(people: &[Remembered]) -> Vec<u8> {
    let mailboxes = || people.iter().filter_map(|person| person.entry.mailbox.as_ref());
    let homes: BTreeSet<&str> =
        mailboxes().flat_map(|it| iter::once(&*it.home_server).chain(it.home_database.as_deref())).collect();
    let homes: Vec<&str> = homes.into_iter().collect();
    let mut lines = Lines::default();
    lines.push(&homes);
    for person in people {
        lines.push(&PersonBody::of(person, &homes));
    }
    lines.with_heading(PEOPLE_KIND)
}

/// People from the bytes of their file.
///
/// # Errors
/// They are not such a file's.
pub fn decode_people(bytes: &[u8]) -> Result<Vec<Remembered>, Problem> {
    let mut lines = body_of(bytes, PEOPLE_KIND)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let homes: Vec<Arc<str>> = match lines.next().map(serde_json::from_slice::<Vec<String>>) {
        Some(Ok(homes)) => homes.into_iter().map(Arc::from).collect(),
        Some(Err(_)) | None => return Err(Problem::Damaged),
    };
    let person = |line| serde_json::from_slice::<PersonBody>(line).ok()?.person(&homes);
    lines.map(|line| person(line).ok_or(Problem::Damaged)).collect()
}

/// JSON values, one a line, as many as a file may have.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, value: &impl Serialize) {
        let before = self.0.len();
        let written = serde_json::to_writer(&mut self.0, value);
        self.0.push(b'\n');
        // Strings, numbers and lists of them can be written; too much of them is not.
        if written.is_err() || (self.0.len() + HEADING_BYTES_MAX) as u64 > FILE_BYTES_MAX {
            self.0.truncate(before);
        }
    }

    fn with_heading(self, kind: &str) -> Vec<u8> {
        let mut file = format!("{PROGRAM} {kind} {FORMAT} {}\n", blake3::hash(&self.0)).into_bytes();
        file.extend(self.0);
        file
    }
}

/// What comes after the heading, if that is as it must be.
fn body_of<'b>(bytes: &'b [u8], kind: &str) -> Result<&'b [u8], Problem> {
    let heading_end = bytes.iter().take(HEADING_BYTES_MAX).position(|byte| *byte == b'\n');
    let heading = bytes.get(..heading_end.ok_or(Problem::Foreign)?).unwrap_or_default();
    let heading = std::str::from_utf8(heading).map_err(|_| Problem::Foreign)?;
    let words: Vec<_> = heading.split(' ').collect();
    let [program, its_kind, format, hash] = words[..] else { return Err(Problem::Foreign) };
    if (program, its_kind) != (PROGRAM, kind) {
        return Err(Problem::Foreign);
    }
    match format.parse() {
        Ok(FORMAT) => {}
        Ok(other) => return Err(Problem::Format(other)),
        Err(_) => return Err(Problem::Foreign),
    }
    let body = bytes.get(heading.len() + 1..).unwrap_or_default();
    if blake3::hash(body).to_hex().as_str() == hash { Ok(body) } else { Err(Problem::Damaged) }
}

/// The file's own words, so that the program can change without them.
#[derive(Serialize, Deserialize)]
struct TopologyBody {
    /// Seconds since 1970.
    read_at: u64,
    from: String,
    sites: Vec<String>,
    servers: Vec<ServerBody>,
    site_links: Vec<(Vec<String>, u32)>,
    databases: Vec<(String, String)>,
    subnets: Vec<(String, String)>,
    addresses: Vec<(String, u16, SocketAddr)>,
}

#[derive(Serialize, Deserialize)]
struct ServerBody {
    name: String,
    fqdn: String,
    legacy_dn: String,
    site: Option<String>,
    version: (u8, u8, u16),
    client_access: bool,
    /// By [`Protocol::name`].
    virtual_directories: BTreeMap<String, VirtualDirectoryBody>,
}

#[derive(Serialize, Deserialize)]
struct VirtualDirectoryBody {
    internal_url: Option<String>,
    external_url: Option<String>,
    internal_authentication: u32,
}

#[derive(Serialize, Deserialize)]
struct PersonBody {
    names: Vec<NameBody>,
    /// Bytes are in base64 here.
    id: String,
    dn: String,
    name: String,
    mailbox: Option<MailboxBody>,
    master_account: Option<String>,
    /// Absent in the files of earlier versions: nobody is signed in by Kerberos then until the first look-up, which is at
    /// the person's first use.
    #[serde(default)]
    principal: Option<String>,
    read_at: u64,
}

#[derive(Serialize, Deserialize)]
struct MailboxBody {
    key: u64,
    /// Places in the list of the first line.
    home_server: usize,
    home_database: Option<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NameBody {
    Address(String),
    Account(String, String),
    Bare(String),
    Guid(String),
}

impl ServerBody {
    fn of(server: &Server) -> Self {
        let directory = |protocol: Protocol| {
            let directory = server.virtual_directory(protocol)?;
            let body = VirtualDirectoryBody {
                internal_url: directory.internal_url.as_ref().map(Url::to_string),
                external_url: directory.external_url.as_ref().map(Url::to_string),
                internal_authentication: directory.internal_authentication.0,
            };
            Some((protocol.name().to_owned(), body))
        };
        ServerBody {
            name: server.name.clone(),
            fqdn: server.fqdn.clone(),
            legacy_dn: server.legacy_dn.clone(),
            site: server.site_name.clone(),
            version: (server.version.major, server.version.minor, server.version.build),
            client_access: server.client_access,
            virtual_directories: Protocol::ALL.into_iter().filter_map(directory).collect(),
        }
    }

    fn server(self) -> Option<Server> {
        let mut virtual_directories = [const { None }; VirtualDirectoryKind::COUNT];
        for (protocol, directory) in self.virtual_directories {
            let kind = protocol.parse::<Protocol>().ok()?.virtual_directory()?;
            let url = |text: Option<String>| text.map(|text| Url::parse(&text)).transpose().ok();
            *virtual_directories.get_mut(kind as usize)? = Some(VirtualDirectory {
                internal_url: url(directory.internal_url)?,
                external_url: url(directory.external_url)?,
                internal_authentication: AuthenticationMethods(directory.internal_authentication),
            });
        }
        let (major, minor, build) = self.version;
        Some(Server {
            name: self.name,
            fqdn: self.fqdn,
            legacy_dn: self.legacy_dn,
            site_name: self.site,
            site: None,
            version: Version { major, minor, build },
            client_access: self.client_access,
            hash_seed: 0, // both for `Topology::new` to fill in
            virtual_directories,
        })
    }
}

impl PersonBody {
    /// `homes` are in order, and hold the person's.
    fn of(person: &Remembered, homes: &[&str]) -> Self {
        let place = |home: &str| homes.binary_search(&home).unwrap_or(usize::MAX);
        let Remembered { names, entry, read_at } = person;
        let name = |name: &MailboxName| match name {
            MailboxName::Address(address) => NameBody::Address(address.clone()),
            MailboxName::Account { domain, account } => NameBody::Account(domain.clone(), account.clone()),
            MailboxName::Bare(bare) => NameBody::Bare(bare.clone()),
            MailboxName::Guid(guid) => NameBody::Guid(STANDARD.encode(guid)),
        };
        PersonBody {
            names: names.iter().map(name).collect(),
            id: STANDARD.encode(entry.id.0),
            dn: entry.dn.clone(),
            name: entry.name.clone(),
            mailbox: entry.mailbox.as_ref().map(|mailbox| MailboxBody {
                key: mailbox.key,
                home_server: place(&mailbox.home_server),
                home_database: mailbox.home_database.as_deref().map(place),
            }),
            master_account: entry.master_account.as_ref().map(|sid| STANDARD.encode(&sid.0)),
            principal: entry.principal.clone(),
            read_at: seconds(*read_at),
        }
    }

    fn person(self, homes: &[Arc<str>]) -> Option<Remembered> {
        let sixteen = |text: &str| <[u8; 16]>::try_from(STANDARD.decode(text).ok()?).ok();
        let name = |name| {
            Some(match name {
                NameBody::Address(address) => MailboxName::Address(address),
                NameBody::Account(domain, account) => MailboxName::Account { domain, account },
                NameBody::Bare(bare) => MailboxName::Bare(bare),
                NameBody::Guid(guid) => MailboxName::Guid(sixteen(&guid)?),
            })
        };
        let master_account = match self.master_account {
            Some(sid) => Some(Sid(STANDARD.decode(sid).ok()?.into())),
            None => None,
        };
        let mailbox = match self.mailbox {
            Some(MailboxBody { key, home_server, home_database }) => {
                let home_database = match home_database {
                    Some(place) => Some(homes.get(place)?.clone()),
                    None => None,
                };
                Some(Mailbox { key, home_server: homes.get(home_server)?.clone(), home_database })
            }
            None => None,
        };
        Some(Remembered {
            names: self.names.into_iter().map(name).collect::<Option<_>>()?,
            entry: Entry {
                id: EntryId(sixteen(&self.id)?),
                dn: self.dn,
                name: self.name,
                mailbox,
                master_account,
                principal: self.principal,
            },
            read_at: time(self.read_at)?,
        })
    }
}

/// Whole seconds since 1970; what was before it never happened.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

const PROGRAM: &str = "firstcas";
/// Changed together with what a file says, so that no program reads what it would misunderstand.
const FORMAT: u32 = 1;
const TOPOLOGY_KIND: &str = "topology";
const PEOPLE_KIND: &str = "people";
/// Names of the files.
const TOPOLOGY: &str = "topology.kept";
const PEOPLE: &str = "people.kept";
const BEING_WRITTEN: &str = ".being-written-";
/// No file is being written for as long.
const WRITING_TAKES: Duration = Duration::from_secs(60 * 60);
/// How many unusable files of a name are left for somebody to look at.
const BAD_FILES_MAX: usize = 9;
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// A million people of some 450 bytes; the largest organisation takes a few MiB.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// `firstcas topology 1 `, 64 digits of a hash, and room for larger numbers.
const HEADING_BYTES_MAX: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)] // a test may fail by panicking
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::directory::{ldif, schema};

    fn topology() -> KeptTopology {
        let contoso = ldif::parse(include_bytes!("../../conf/contoso.ldif")).unwrap();
        KeptTopology {
            read_at: UNIX_EPOCH + Duration::from_secs(1_796_000_000),
            from: "ldaps://dc-lis-1.contoso.com".into(),
            parts: schema::topology(&contoso).parts,
            addresses: HashMap::from([
                (("cas-lis-1.contoso.com".into(), 443), "10.1.0.21:443".parse().unwrap()),
                (("::1".into(), 80), "[::1]:80".parse().unwrap()),
            ]),
        }
    }

    fn people() -> Vec<Remembered> {
        let contoso = ldif::parse(include_bytes!("../../conf/contoso.ldif")).unwrap();
        let people = contoso.iter().filter(|record| record.is("user"));
        let mut people: Vec<_> = people
            .map(|record| Remembered {
                names: schema::changed(record, &schema::domains(&contoso)).names,
                entry: schema::entry(record),
                read_at: UNIX_EPOCH + Duration::from_secs(1_796_000_001),
            })
            .collect();
        people[0].entry.master_account = Some(Sid([1, 5, 0, 0, 0, 0, 0, 5].as_slice().into()));
        people
    }

    /// The files of a folder, by name.
    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_kept_is_read_again_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(folder.path());
        assert_eq!(kept.topology().unwrap(), None);
        assert_eq!(kept.people().unwrap(), []);
        kept.keep_topology(&KeptTopology { from: "before".into(), ..topology() }).unwrap();
        kept.keep_topology(&topology()).unwrap();
        kept.keep_people(&people()).unwrap();

        let later = Kept::in_folder(folder.path());
        assert_eq!(later.topology().unwrap(), Some(topology()));
        let everybody = later.people().unwrap();
        assert_eq!(everybody, people());
        assert!(everybody.len() >= 8 && everybody.iter().all(|person| !person.names.is_empty()));
        assert_eq!(files(folder.path()), ["people.kept", "topology.kept"]);
        for file in files(folder.path()) {
            let mode = fs::metadata(folder.path().join(&file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn people_who_are_the_same_are_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(folder.path());
        kept.keep_people(&people()).unwrap();
        fs::remove_file(folder.path().join(PEOPLE)).unwrap();
        kept.keep_people(&people()).unwrap();
        assert_eq!(files(folder.path()), Vec::<String>::new());
        kept.keep_people(&people()[1..]).unwrap();
        assert_eq!(kept.people().unwrap(), people()[1..]);
    }

    #[test]
    fn a_file_that_is_not_as_it_must_be_is_named_moved_aside_and_not_read() {
        let good = encode_topology(&topology());
        let text = String::from_utf8(good.clone()).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for (bytes, problem) in [
            (b"".to_vec(), Problem::Foreign),
            (b"\0".repeat(4096), Problem::Foreign),
            (b"dn: DC=contoso,DC=com\ndc: contoso\n".to_vec(), Problem::Foreign),
            (encode_people(&people()), Problem::Foreign),
            (text.replacen("topology 1 ", "topology 2 ", 1).into_bytes(), Problem::Format(2)),
            (text.replacen("topology 1 ", "topology one ", 1).into_bytes(), Problem::Foreign),
            (good[..good.len() - 1].to_vec(), Problem::Damaged),
            (good[..100].to_vec(), Problem::Damaged),
            (flipped, Problem::Damaged),
            (Lines(b"{}\n".to_vec()).with_heading(TOPOLOGY_KIND), Problem::Damaged),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(TOPOLOGY);
            fs::write(&path, &bytes).unwrap();
            let error = Kept::in_folder(folder.path()).topology().expect_err("a bad file");
            match &error {
                KeptError::Unusable { problem: found, .. } => assert_eq!(*found, problem),
                other @ KeptError::System { .. } => panic!("{other}"),
            }
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
            assert!(error.to_string().ends_with("topology.kept.bad-1"), "{error}");
            assert_eq!(files(folder.path()), ["topology.kept.bad-1"]);
            assert_eq!(fs::read(folder.path().join("topology.kept.bad-1")).unwrap(), bytes, "nothing is lost");
        }
    }

    #[test]
    fn many_bad_files_leave_a_bounded_number() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(folder.path());
        for number in 0..2 * BAD_FILES_MAX {
            fs::write(folder.path().join(PEOPLE), format!("bad {number}")).unwrap();
            kept.people().expect_err("a bad file");
        }
        assert_eq!(files(folder.path()).len(), BAD_FILES_MAX);
    }

    #[test]
    fn a_file_of_enormous_size_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join(TOPOLOGY)).unwrap();
        file.set_len(1 << 40).unwrap(); // sparse
        let error = Kept::in_folder(folder.path()).topology().expect_err("too large");
        assert!(error.to_string().contains("is larger than 512 MiB"), "{error}");
    }

    #[test]
    fn what_is_no_file_or_no_folder_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(TOPOLOGY)).unwrap();
        let kept = Kept::in_folder(folder.path());
        let error = kept.topology().expect_err("a folder");
        assert!(matches!(error, KeptError::System { what: "read", .. }), "{error:?}");
        assert!(matches!(kept.keep_topology(&topology()), Err(KeptError::System { what: "written", .. })));
        assert_eq!(files(folder.path()), ["topology.kept"], "and no half file");
        let gone = Kept::in_folder(folder.path().join("gone"));
        let error = gone.keep_people(&people()).expect_err("no folder");
        assert!(error.to_string().contains("gone/people.kept cannot be written"), "{error}");
    }

    #[test]
    fn what_a_killed_process_left_half_written_is_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let (old, young) = (folder.path().join(".being-written-a"), folder.path().join(".being-written-b"));
        for file in [&old, &young] {
            fs::write(file, "half").unwrap();
        }
        File::options().write(true).open(&old).unwrap().set_modified(SystemTime::now() - 2 * WRITING_TAKES).unwrap();
        Kept::in_folder(folder.path());
        assert_eq!(files(folder.path()), [".being-written-b"], "another process may still write that");
    }

    #[test]
    fn people_whom_an_earlier_version_kept_are_read_without_their_principal() {
        let person = Lines(
            b"[]\n{\"names\":[],\"id\":\"AAAAAAAAAAAAAAAAAAAAAA==\",\"dn\":\"\",\"name\":\"ana\",\"read_at\":1}"
                .to_vec(),
        );
        let read = decode_people(&person.with_heading(PEOPLE_KIND)).unwrap();
        assert_eq!((read[0].entry.name.as_str(), &read[0].entry.principal), ("ana", &None));
        let now = people();
        assert!(now[1].entry.principal.is_some(), "{now:?}");
    }

    #[test]
    fn a_time_that_no_clock_can_show_is_damage() {
        let far = Lines(
            br#"{"names":[],"id":"AAAAAAAAAAAAAAAAAAAAAA==","dn":"","name":"","read_at":18446744073709551615}"#
                .to_vec(),
        );
        assert_eq!(decode_people(&far.with_heading(PEOPLE_KIND)), Err(Problem::Damaged));
    }

    #[test]
    fn a_person_takes_about_as_much_room_as_the_bound_counts_on() {
        let people = people();
        let many: Vec<_> = (0..100).flat_map(|_| people.iter().cloned()).collect();
        let bytes = encode_people(&many);
        assert!(bytes.len() / many.len() < 500, "{} bytes for {}", bytes.len(), many.len());
        assert_eq!(decode_people(&bytes).map(|read| read.len()), Ok(many.len()));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_reading_them_does_not_panic(bytes in any::<Vec<u8>>(), cut in 0_usize..5000) {
            let _ = (decode_topology(&bytes), decode_people(&bytes));
            let good = encode_people(&people());
            if cut < good.len() {
                prop_assert!(decode_people(&good[..cut]).is_err());
            }
            let _ = decode_people(&Lines(bytes.clone()).with_heading(PEOPLE_KIND));
            let _ = decode_topology(&Lines(bytes).with_heading(TOPOLOGY_KIND));
        }

        #[test]
        fn whatever_a_persons_names_they_come_back(texts in any::<[String; 4]>(), guid: [u8; 16], key: u64) {
            let [address, domain, account, bare] = texts;
            let person = Remembered {
                names: vec![
                    MailboxName::Address(address.clone()),
                    MailboxName::Account { domain, account },
                    MailboxName::Bare(bare),
                    MailboxName::Guid(guid),
                ],
                entry: Entry {
                    id: EntryId(guid),
                    dn: address.clone(),
                    name: address.clone(),
                    mailbox: Some(Mailbox { key, home_server: address.as_str().into(), home_database: None }),
                    master_account: None,
                    principal: Some(address.clone()),
                },
                read_at: UNIX_EPOCH,
            };
            prop_assert_eq!(decode_people(&encode_people(std::slice::from_ref(&person))), Ok(vec![person]));
        }
    }
}
