//! "Did you mean": the nearest known name, or the section that the name belongs to.

use super::spec::{LeafKind, SectionSpec, join};

/// The candidate that is nearest to `text`, if it is near enough for a slip of the hand.
pub(super) fn closest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let text = text.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (distance(&text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed(text.len().max(candidate.len())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A third of the longer name, as cargo and rustc allow it.
fn allowed(length: usize) -> usize {
    (length / 3).max(1)
}

fn distance(text: &str, candidate: &str) -> usize {
    strsim::damerau_levenshtein(text, &candidate.to_ascii_lowercase().replace('-', "_"))
}

/// What to write instead of a key, and whether that is a secret.
pub(super) struct Advice {
    pub(super) help: String,
    /// Also if nothing is near: a value that nobody knows may be a password.
    pub(super) may_be_secret: bool,
}

/// What to write instead of `key` in the table `section`.
pub(super) fn for_key(root: &SectionSpec, section: &SectionSpec, key: &str) -> Advice {
    let wanted = key.replace('-', "_");
    let others = || root.tables().into_iter().filter(|table| !table.path.is_empty() && table.path != section.path);
    let owners: Vec<_> = others().filter(|table| table.keys().contains(&wanted)).collect();
    // A key of this very table in another spelling is not one of another table.
    if let Some(first) = owners.first().filter(|_| !section.keys().contains(&wanted)) {
        let places: Vec<_> = owners.iter().map(|table| table.heading()).collect();
        return Advice {
            help: format!("`{wanted}` belongs to {}", places.join(" or ")),
            may_be_secret: first.is_secret(&wanted),
        };
    }
    if let Some(table) = others().find(|table| table.path == wanted) {
        let help = format!("`{wanted}` is a section at the top: {}", table.heading());
        return Advice { help, may_be_secret: true };
    }
    let near = |table: &SectionSpec| closest(key, table.keys().iter().map(String::as_str)).map(str::to_owned);
    if let Some(near) = near(section) {
        return Advice { help: format!("did you mean `{near}`?"), may_be_secret: section.is_secret(&near) };
    }
    if let Some((table, near)) = others().find_map(|table| near(table).map(|near| (table, near))) {
        return Advice {
            help: format!("did you mean `{near}` of {}?", table.heading()),
            may_be_secret: table.is_secret(&near),
        };
    }
    let keys: Vec<_> = section.fields.iter().map(|field| field.key).collect();
    let of = if section.path.is_empty() { "sections".to_owned() } else { format!("keys of {}", section.heading()) };
    Advice { help: format!("{of} are: {}", keys.join(", ")), may_be_secret: true }
}

/// The full name nearest to `path`, as in `relay.batch_rows`.
pub(super) fn for_path(root: &SectionSpec, path: &str) -> Option<String> {
    let leaves = root.leaves();
    if let Some(near) = closest(path, leaves.iter().map(|leaf| leaf.path.as_str())) {
        return Some(near.to_owned());
    }
    // A right key in the wrong section is far away by letters.
    let key = path.rsplit(['.']).next()?;
    let owner = root.tables().into_iter().find(|table| table.keys().iter().any(|known| known == key))?;
    let path = join(owner.path, key);
    leaves.iter().any(|leaf| leaf.path == path && leaf.kind != LeafKind::Tables).then_some(path)
}
