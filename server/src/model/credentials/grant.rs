//! What clients may do because of the certificate they show.

use std::{fmt, str::FromStr};

use super::{Right, Rights, TenantScope};
use crate::model::ids::Tenant;

/// What stands for all tenants.
const ALL_TENANTS: &str = "*";

/// What an operator grants to whoever shows a certificate for a name: `NAME=RIGHT+RIGHT@TENANT+TENANT`, or `@*` for all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// A DNS name or URI among the certificate's subject alternative names, letter by letter.
    pub name: Box<str>,
    /// For which tenants it speaks.
    pub tenants: TenantScope,
    /// What it may do; at least one thing.
    pub rights: Rights,
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A URI may hold either sign itself, rights and tenants neither.
        let split = || {
            let (rest, tenants) = text.rsplit_once('@')?;
            let (name, rights) = rest.rsplit_once('=')?;
            (!name.is_empty() && !name.contains(char::is_whitespace)).then_some((name, rights, tenants))
        };
        let split = split().ok_or("is not NAME=RIGHTS@TENANTS, such as billing.internal=publish+read@acme")?;
        let (name, rights, tenants) = split;
        let rights: Result<Rights, _> = rights.split('+').map(str::parse::<Right>).collect();
        let rights = rights.map_err(|error| format!("has rights that {error}"))?;
        let tenants = if tenants == ALL_TENANTS { TenantScope::All } else { some(tenants)? };
        Ok(Self { name: name.into(), tenants, rights })
    }
}

fn some(tenants: &str) -> Result<TenantScope, String> {
    let read = |name: &str| match name {
        "" => Err("has an empty tenant".to_owned()),
        name => name.parse::<Tenant>().map_err(|error| format!("has a tenant that {error}")),
    };
    let tenants: Vec<_> = tenants.split('+').map(read).collect::<Result<_, _>>()?;
    TenantScope::only(tenants).ok_or_else(|| "names no tenant".to_owned())
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} for {}", self.name, self.rights, self.tenants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_as_they_are_written() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Grant>().map(|grant| grant.to_string()), Ok(expected.to_owned()), "{text}");
        };
        check("billing.internal=publish@acme", "billing.internal: publish for acme");
        check("a=read+publish@b+a", "a: publish,read for a,b");
        check("spiffe://x/ns?a=b@c=operate@*", "spiffe://x/ns?a=b@c: operate for all tenants");
        for wrong in
            ["", "a", "a=read", "a@b", "=read@b", "a=@b", "a=read@", "a=all@b", "a=read@B", "a=read@b+", "a b=read@*"]
        {
            assert!(wrong.parse::<Grant>().is_err(), "{wrong}");
        }
    }
}
