//! Which Exchange a server runs: the packed `versionNumber` and the generations that differ in behaviour.

use std::fmt;

/// An Exchange build, such as 8.3.83 (Exchange 2007 SP3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 6 for Exchange 2000 and 2003, 8 for 2007, 14 for 2010, 15 for 2013 and later.
    pub major: u8,
    /// Service pack (2007, 2010) or release (15.1 is 2016).
    pub minor: u8,
    /// Build number.
    pub build: u16,
}

/// The releases whose proxying and redirection rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// Exchange 2000 and 2003: no Client Access Server; the back-end speaks HTTP itself.
    Exchange2003,
    /// Exchange 2007.
    Exchange2007,
    /// Exchange 2010.
    Exchange2010,
    /// Exchange 2013 and later, which proxy to each other freely.
    Exchange2013,
}

impl Version {
    /// Decodes the `versionNumber` attribute of a server object.
    ///
    /// Exchange 2007 and later pack it: structure version 7 in bits 31-28, major in 27-22, minor in 21-16, a flag in
    /// bit 15, build in 14-0. Exchange 2000 and 2003 store the bare build number, always below `0x7000_0000`.
    pub fn from_version_number(packed: u32) -> Self {
        if packed < 0x7000_0000 {
            // Exchange 5.5 and a number that says nothing must not be taken for a back-end that speaks HTTP.
            let (major, minor) = if packed < EXCHANGE_2000_BUILD { (5, 5) } else { (6, 5) };
            #[allow(clippy::cast_possible_truncation)] // a 2003 build has four digits; a larger one is still "2003"
            return Version { major, minor, build: packed.min(u32::from(u16::MAX)) as u16 };
        }
        #[allow(clippy::cast_possible_truncation)] // each field is masked to its width
        Version {
            major: (packed >> 22 & 0x3f) as u8,
            minor: (packed >> 16 & 0x3f) as u8,
            build: (packed & 0x7fff) as u16,
        }
    }

    /// The generation, or `None` for a major version no Exchange ever had.
    pub fn generation(self) -> Option<Generation> {
        match self.major {
            6 => Some(Generation::Exchange2003),
            8 => Some(Generation::Exchange2007),
            14 => Some(Generation::Exchange2010),
            15 => Some(Generation::Exchange2013),
            _ => None,
        }
    }
}

/// Build of the first release of Exchange 2000, 6.0.4417; all earlier ones are lower.
const EXCHANGE_2000_BUILD: u32 = 4417;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Generation::Exchange2003 => "Exchange 2003",
            Generation::Exchange2007 => "Exchange 2007",
            Generation::Exchange2010 => "Exchange 2010",
            Generation::Exchange2013 => "Exchange 2013 or later",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_version_numbers_decode_to_the_builds_they_were_made_from() {
        for (packed, text, generation) in [
            (6944, "6.5.6944", Generation::Exchange2003),
            (1_912_636_077, "8.0.685", Generation::Exchange2007),
            (1_912_701_168, "8.1.240", Generation::Exchange2007),
            (1_912_832_083, "8.3.83", Generation::Exchange2007),
            (1_937_997_947, "14.3.123", Generation::Exchange2010),
            (1_941_996_295, "15.0.775", Generation::Exchange2013),
            (1_942_127_710, "15.2.1118", Generation::Exchange2013),
        ] {
            let version = Version::from_version_number(packed);
            assert_eq!(version.to_string(), text);
            assert_eq!(version.generation(), Some(generation));
        }
    }

    #[test]
    fn a_version_that_no_exchange_with_http_ever_had_has_no_generation() {
        for packed in [0, 2653, 0x7000_0000 | 9 << 22, u32::MAX] {
            assert_eq!(Version::from_version_number(packed).generation(), None);
        }
    }
}
