//! Which fields an update is about: those that its mask names, or those that are set.

use prost_types::FieldMask;

use super::ECHO_CHARS_MAX;
use crate::api::status::Violations;

/// What a mask says that means every field.
const ALL_FIELDS: &str = "*";
/// Most paths of a mask.
const PATHS_MAX: usize = 64;

/// The fields of what is to be updated.
pub(super) struct Fields<'a> {
    /// What it is.
    pub(super) noun: &'static str,
    /// Those that may be updated.
    pub(super) all: &'a [&'static str],
    /// Those that may not.
    pub(super) fixed: &'a [&'static str],
    /// Those of `all` that are not empty.
    pub(super) set: &'a [&'static str],
}

/// Those that a mask names; without a mask, those that are set.
pub(super) fn paths(violations: &mut Violations, mask: Option<&FieldMask>, fields: &Fields<'_>) -> Vec<&'static str> {
    const FIELD: &str = "update_mask";
    let Fields { noun, all, fixed, set } = *fields;
    let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else {
        if set.is_empty() {
            let what = noun.replace(' ', "_");
            violations.add(what, "must set at least one field that can be updated, or `update_mask` name one");
        }
        return set.to_vec();
    };
    if mask.paths.len() > PATHS_MAX {
        violations.add(FIELD, format!("must not name more than {PATHS_MAX} fields"));
        return Vec::new();
    }
    if let [only] = mask.paths.as_slice()
        && only == ALL_FIELDS
    {
        return all.to_vec();
    }
    let mut paths = Vec::new();
    for (index, path) in mask.paths.iter().enumerate() {
        let field = || format!("{FIELD}.paths[{index}]");
        if let Some(known) = all.iter().find(|known| *known == path) {
            paths.push(*known);
        } else if path == ALL_FIELDS {
            violations.add(field(), "`*` must stand alone");
        } else if fixed.contains(&path.as_str()) {
            violations.add(field(), format!("{path} cannot be updated"));
        } else {
            let path: String = path.chars().take(ECHO_CHARS_MAX).collect();
            let article = if noun.starts_with('e') { "an" } else { "a" };
            let problem = format!("{article} {noun} has no field {path:?}; fields are named as in the .proto file");
            violations.add(field(), problem);
        }
    }
    paths
}
