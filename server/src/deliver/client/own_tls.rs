//! Clients for webhooks with TLS settings of their own: those that were used last.

use std::{collections::HashMap, sync::Arc};

use crate::{limits::DELIVER_TLS_CLIENTS_MAX, model::tls::Fingerprint};

/// At most `DELIVER_TLS_CLIENTS_MAX` of them. One is for all webhooks with the same settings, and for no others: once settings
/// change, what was connected with the old ones is not used again.
pub(super) struct OwnTls<T> {
    by_settings: HashMap<Fingerprint, Used<T>>,
    /// How often one was asked for.
    uses: u64,
}

struct Used<T> {
    client: Arc<T>,
    /// The last one of `uses` that was of this one.
    last: u64,
}

impl<T> Default for OwnTls<T> {
    fn default() -> Self {
        Self { by_settings: HashMap::new(), uses: 0 }
    }
}

impl<T> OwnTls<T> {
    /// The one for these settings, made if it is not there.
    pub(super) fn get<E>(&mut self, settings: Fingerprint, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        self.uses += 1;
        if let Some(known) = self.by_settings.get_mut(&settings) {
            known.last = self.uses;
            return Ok(known.client.clone());
        }
        let client = Arc::new(make()?);
        if self.by_settings.len() == DELIVER_TLS_CLIENTS_MAX {
            self.forget_one();
        }
        self.by_settings.insert(settings, Used { client: client.clone(), last: self.uses });
        Ok(client)
    }

    /// Whoever is using it keeps it until then. Looking at all of them costs little beside the handshake that follows.
    fn forget_one(&mut self) {
        let oldest = self.by_settings.iter().min_by_key(|(_, used)| used.last).map(|(settings, _)| *settings);
        if let Some(oldest) = oldest {
            self.by_settings.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::model::tls::TlsSettings;

    #[test]
    fn the_one_that_was_not_used_for_longest_goes() {
        let authority = |n: usize| TlsSettings::from_stored(vec![n.to_le_bytes().to_vec()], Vec::new(), None).unwrap();
        let mut clients = OwnTls::default();
        let mut made = 0;
        let mut get = |n: usize| {
            let client = clients.get(authority(n).fingerprint(), || {
                made += 1;
                Ok::<_, Infallible>(n)
            });
            assert_eq!(*client.unwrap(), n);
            (made, clients.by_settings.len())
        };
        for n in 0..DELIVER_TLS_CLIENTS_MAX {
            assert_eq!(get(n), (n + 1, n + 1));
        }
        let full = DELIVER_TLS_CLIENTS_MAX;
        assert_eq!(get(0), (full, full), "it is there");
        assert_eq!(get(full), (full + 1, full), "in the place of the second");
        assert_eq!(get(0), (full + 1, full));
        assert_eq!(get(1), (full + 2, full), "which is made again");
        assert!(clients.get(authority(full + 1).fingerprint(), || Err(())).is_err());
    }
}
