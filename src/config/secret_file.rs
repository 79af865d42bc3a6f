//! Secrets in separate files, read at startup and again for each new connection.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::secret::Secret;

/// A file that holds one secret is short; a bound keeps a wrong path, such as a device, from filling the memory.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The text of a file without the line end that editors put there. Errors: why not, without any of the text.
pub fn read(path: &Path) -> Result<Secret, String> {
    let bad = |why: String| format!("cannot read {}: {why}", path.display());
    let file = fs::File::open(path).map_err(|error| bad(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(bad(format!("it is larger than {SECRET_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err(bad("it is empty".to_owned())) } else { Ok(Secret::of_file(text, path)) }
}

/// What tells one version of a file from the next without reading it: Kubernetes replaces the file, editors write into
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp(Option<(u64, u64, i64, i64)>);

impl Stamp {
    /// Of a file that may not be there.
    pub fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|meta| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())))
    }
}
