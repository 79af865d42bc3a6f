//! The user that PostgreSQL runs as if this process is root, because PostgreSQL refuses to run as root.

use crate::error::{Code, Error, Result};

/// Users to run a server as, first one that exists: the one of the PostgreSQL package, or the one without rights.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// A user of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// Errors: [`Code::Usage`] when the system has none of the candidates.
    pub fn for_server() -> Result<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        choose(&passwd).ok_or_else(|| {
            Error::new(
                Code::Usage,
                "PostgreSQL does not run as root, and this system has no user postgres or nobody to run it as",
            )
            .hint("run the demo as an ordinary user")
        })
    }
}

/// Never root, whatever the file says.
fn choose(passwd: &str) -> Option<Account> {
    CANDIDATES
        .iter()
        .find_map(|name| passwd.lines().filter_map(parse).find(|account| account.name == *name && account.uid != 0))
}

/// One line of `/etc/passwd`: `name:password:uid:gid:…`.
fn parse(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
    Some(Account { name: (*name).to_owned(), uid: parse_id(uid)?, gid: parse_id(gid)? })
}

/// macOS writes the highest ids as negative numbers.
fn parse_id(text: &str) -> Option<u32> {
    let number: i64 = text.parse().ok()?;
    u32::try_from(if number < 0 { number + (1 << 32) } else { number }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_the_package_comes_before_nobody_and_root_is_never_chosen() {
        let debian = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(choose(debian), Some(Account { name: "postgres".to_owned(), uid: 101, gid: 104 }));
        let bare =
            "# a comment\nroot:x:0:0:root:/root:/bin/sh\nnobody:*:-2:-2:Unprivileged User:/var/empty:/usr/bin/false\n";
        assert_eq!(choose(bare), Some(Account { name: "nobody".to_owned(), uid: u32::MAX - 1, gid: u32::MAX - 1 }));
        assert_eq!(choose("postgres:x:0:0::/:/bin/sh\n"), None);
        assert_eq!(choose(""), None);
    }
}
