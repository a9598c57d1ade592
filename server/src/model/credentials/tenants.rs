//! For whom a caller may act.

use std::{fmt, sync::Arc};

use crate::model::ids::Tenant;

/// Which tenants' things a caller sees and changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantScope {
    /// Everybody's, of tenants to come as well.
    All,
    /// Those of some: ascending, without repeats, at least one.
    Only(Arc<[Tenant]>),
}

impl TenantScope {
    /// Some tenants; `None` if there are none.
    pub fn only(tenants: impl IntoIterator<Item = Tenant>) -> Option<Self> {
        let mut tenants: Vec<_> = tenants.into_iter().collect();
        tenants.sort_unstable();
        tenants.dedup();
        (!tenants.is_empty()).then(|| Self::Only(tenants.into()))
    }

    /// Whether it is all of them.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Whether the tenant is one of them.
    pub fn admits(&self, tenant: &Tenant) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenants.binary_search(tenant).is_ok(),
        }
    }

    /// Each of them by name; none if it is all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let tenants: &[Tenant] = match self {
            Self::All => &[],
            Self::Only(tenants) => tenants,
        };
        tenants.iter().map(Tenant::as_str)
    }
}

impl fmt::Display for TenantScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all tenants"),
            Self::Only(_) => f.write_str(&self.names().collect::<Vec<_>>().join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_admit_their_own() {
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        let some = TenantScope::only(["c", "a", "c"].map(tenant)).unwrap();
        assert_eq!(some.names().collect::<Vec<_>>(), ["a", "c"]);
        for (name, expected) in [("a", true), ("b", false), ("c", true), ("default", false)] {
            assert_eq!(some.admits(&tenant(name)), expected, "{name}");
            assert!(TenantScope::All.admits(&tenant(name)));
        }
        assert_eq!(TenantScope::only([]), None);
        assert!(TenantScope::All.is_all() && !some.is_all());
    }
}
