//! Who may use a file that holds a secret.

/// Whether others than its owner, and root, can read or change a file with these permissions. The group of root is root:
/// so systemd hands out credentials, with an access list for the one who runs the service.
pub(crate) fn is_open_to_others(mode: u32, owner: u32, group: u32) -> bool {
    const ROOT: u32 = 0;
    let is_handed_out = (owner, group) == (ROOT, ROOT) && mode & 0o777 == 0o440;
    mode & 0o077 != 0 && !is_handed_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_root_may_read_what_is_roots() {
        for (mode, owner, group, expected) in [
            (0o600, 1000, 1000, false),
            (0o400, 0, 0, false),
            (0o440, 0, 0, false),
            (0o460, 0, 0, true),
            (0o640, 0, 0, true),
            (0o444, 0, 0, true),
            (0o440, 0, 1000, true),
            (0o440, 1000, 0, true),
            (0o640, 1000, 1000, true),
            (0o604, 1000, 1000, true),
        ] {
            assert_eq!(is_open_to_others(mode, owner, group), expected, "{mode:04o} {owner} {group}");
        }
    }
}
