//! Files an option names: whether they are there, can be read, and hold what they should.

use std::{
    env,
    fs::File,
    io::{ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use pingora_core::tls::{
    pkey::{PKey, Private},
    x509::X509,
};
use toml::de::DeValue;
use zeroize::Zeroizing;

pub use super::section::Wrong;
use super::{section::wrong, values::text};
use crate::{edge::seal::KEY_BYTES, identity::keytab::Keytab, secret::Secret};

/// What a configuration depends on besides its text.
pub struct Surroundings {
    /// Where relative paths start: the directory firstcas is started in, as with `HAProxy`.
    pub working_directory: PathBuf,
    /// An environment variable's value.
    pub variable: fn(&str) -> Option<String>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Surroundings { working_directory: env::current_dir().unwrap_or_default(), variable: |name| env::var(name).ok() }
    }

    /// A regular file that can be opened for reading.
    pub fn file(&self, value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
        let path = self.working_directory.join(text(value)?);
        open(&path)?;
        Ok(path)
    }

    /// A folder that is there and can be written to.
    pub fn folder(&self, value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
        let path = self.working_directory.join(text(value)?);
        let cure = "make it, and give it to the user that firstcas runs as";
        let cannot = |error: std::io::Error| wrong(format!("{} cannot be written to: {error}", path.display()), cure);
        let own = tempfile::tempfile_in(&path).and_then(|file| file.metadata()).map_err(cannot)?;
        let folder = path.metadata().map_err(cannot)?;
        // Whoever else can write there decides where requests go when the directory is away.
        if ![own.uid(), ROOT].contains(&folder.uid()) || folder.mode() & WRITABLE_BY_ALL != 0 {
            return Err(wrong(format!("others may write to {}", path.display()), cure));
        }
        Ok(path)
    }

    /// The place of a file that firstcas makes; its folder may not be there yet.
    pub fn path(&self, value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
        Ok(self.working_directory.join(text(value)?))
    }

    /// The same of a Unix socket.
    pub fn socket(&self, value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
        let path = self.path(value)?;
        let length = path.as_os_str().len();
        match length > SOCKET_BYTES_MAX {
            true => Err(wrong(
                format!("{} has {length} bytes; the system allows {SOCKET_BYTES_MAX} for a socket", path.display()),
                "choose a shorter path, such as \"/run/firstcas/upgrade.sock\"",
            )),
            false => Ok(path),
        }
    }

    /// The certificates of a PEM file, at least one.
    pub fn certificates(&self, value: &DeValue<'_>) -> Result<(PathBuf, Vec<X509>), Wrong> {
        let path = self.working_directory.join(text(value)?);
        let chain = certificates_in(&path)?;
        Ok((path, chain))
    }

    /// The private key of a PEM file.
    pub fn private_key(&self, value: &DeValue<'_>) -> Result<(PathBuf, PKey<Private>), Wrong> {
        let path = self.working_directory.join(text(value)?);
        let key = private_key_in(&path)?;
        Ok((path, key))
    }

    /// The first line of a file, for a password.
    pub fn first_line(&self, value: &DeValue<'_>) -> Result<Vec<u8>, Wrong> {
        let path = self.working_directory.join(text(value)?);
        let mut line = read(&path)?;
        line.truncate(line.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(line.len()));
        match line.is_empty() {
            // An empty password would make the bind an anonymous one (RFC 4513 section 5.1.2).
            true => Err(wrong(format!("the first line of {} is empty", path.display()), "write the password there")),
            false => Ok(line),
        }
    }

    /// A keytab of the service account.
    pub fn keytab(&self, value: &DeValue<'_>) -> Result<Keytab, Wrong> {
        let path = self.working_directory.join(text(value)?);
        Keytab::parse(&read(&path)?).map_err(|error| {
            let text = error.to_string();
            let (problem, cure) = text.split_once("; ").unwrap_or((&text, "export it again"));
            wrong(format!("{}: {problem}", path.display()), cure)
        })
    }

    /// A file of keys to seal cookies by, one a line.
    pub fn keys(&self, value: &DeValue<'_>) -> Result<Vec<Secret>, Wrong> {
        let path = self.working_directory.join(text(value)?);
        let shown = path.display();
        let cure = "write one key a line, the newest first; `openssl rand -base64 32` makes one";
        let bytes = read(&path)?;
        let mut keys = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate() {
            match BASE64_STANDARD.decode(line) {
                Ok(key) if key.is_empty() => {}
                Ok(key) if key.len() == KEY_BYTES => keys.push(Secret::new(key)),
                Ok(_) | Err(_) => {
                    let problem = format!("line {} of {shown} is not {KEY_BYTES} bytes in base64", number + 1);
                    return Err(wrong(problem, cure));
                }
            }
        }
        if keys.is_empty() { Err(wrong(format!("{shown} has no key"), cure)) } else { Ok(keys) }
    }
}

/// The certificates of a PEM file, at least one.
pub fn certificates_in(path: &Path) -> Result<Vec<X509>, Wrong> {
    let pem = read(path)?;
    let cure = "it must hold PEM blocks that begin with -----BEGIN CERTIFICATE-----";
    let chain = X509::stack_from_pem(&pem)
        .map_err(|_| wrong(format!("a certificate in {} cannot be read", path.display()), cure))?;
    match chain.is_empty() {
        true => Err(wrong(format!("{} has no certificate", path.display()), cure)),
        false => Ok(chain),
    }
}

/// The private key of a PEM file.
pub fn private_key_in(path: &Path) -> Result<PKey<Private>, Wrong> {
    let pem = Zeroizing::new(read(path)?);
    if pem.windows(9).any(|window| window == b"ENCRYPTED") {
        let cure = "store it without passphrase, readable for firstcas alone: `openssl pkey -in KEY -out NEW_KEY`";
        return Err(wrong(format!("the private key in {} asks for a passphrase", path.display()), cure));
    }
    PKey::private_key_from_pem(&pem).map_err(|_| {
        let cure = "it must hold a PEM block that begins with -----BEGIN PRIVATE KEY-----";
        wrong(format!("{} has no private key that can be read", path.display()), cure)
    })
}

/// Who else may read a file that its owner should keep to himself; `None`: nobody, or it is not known.
pub fn other_readers(path: &Path) -> Option<&'static str> {
    const READABLE_BY_ALL: u32 = 0o004;
    const READABLE_BY_GROUP: u32 = 0o040;
    let mode = path.metadata().ok()?.mode();
    let may = |whom| mode & whom != 0;
    match () {
        () if may(READABLE_BY_ALL) => Some("everybody on this machine"),
        () if may(READABLE_BY_GROUP) => Some("its group"),
        () => None,
    }
}

/// Whether a key belongs to a chain's first certificate.
pub fn belong_together(chain: &[X509], key: &PKey<Private>) -> Result<(), Wrong> {
    let is_of = |certificate: &X509| certificate.public_key().is_ok_and(|public| public.public_eq(key));
    let problem = "the private key does not belong to the certificate";
    match chain.iter().position(is_of) {
        Some(0) => Ok(()),
        Some(place) => Err(wrong(
            format!("the private key belongs to certificate {} of the file, not to the first", place + 1),
            "put the listener's own certificate first, its issuers after it",
        )),
        None => {
            Err(wrong(problem, "name the key that the certificate was requested with, or the certificate made for it"))
        }
    }
}

/// A file's bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, Wrong> {
    let mut bytes = Vec::new();
    open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("{} cannot be read: {error}", path.display()), "check the disk"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let cure = "name the right file";
        return Err(wrong(format!("{} is larger than {} MiB", path.display(), FILE_BYTES_MAX >> 20), cure));
    }
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, Wrong> {
    let shown = path.display();
    #[allow(clippy::wildcard_enum_match_arm)] // the system has forty more kinds, and their text says which
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => wrong(
            format!("there is no file {shown}"),
            "create it or correct the path (a relative one starts where firstcas is started)",
        ),
        ErrorKind::PermissionDenied => wrong(
            format!("{shown} may not be read"),
            "give the user that runs firstcas read access to it and its directories",
        ),
        _ => wrong(format!("{shown} cannot be read: {error}"), "correct the path"),
    };
    // Asked before opening: opening a named pipe would wait for its writer.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(wrong(format!("{shown} is not a file"), "name a file"));
    }
    File::open(path).map_err(unreadable)
}

/// More than the largest bundle of certificate authorities, a few hundred KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What `sockaddr_un` has room for, less its final zero.
const SOCKET_BYTES_MAX: usize = 107;

const ROOT: u32 = 0;
const WRITABLE_BY_ALL: u32 = 0o002;
