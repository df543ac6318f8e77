//! The store with every value sealed under this device's own key: nothing it holds can be read
//! from the disk, and a value moved to another key doesn't open.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crypto::{Entropy, Label, SymmetricKey};

use crate::{
    error::{Error, Result},
    store::{Batch, Row, Space, Store},
};

/// Few keys have this many bytes.
const SHORT: usize = 64;

/// A [`Store`] seen in clear by this process only. Cheap to clone.
#[derive(Clone)]
pub struct SealedStore {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    key: SymmetricKey,
    entropy: Arc<dyn Entropy>,
    damaged: AtomicU64,
}

impl SealedStore {
    /// Seals values of `store` under a key derived from `device_secret`.
    pub fn new(store: Arc<dyn Store>, device_secret: &SymmetricKey, entropy: Arc<dyn Entropy>) -> Self {
        let key = device_secret.derive(Label::StoreRow, b"");
        Self { inner: Arc::new(Inner { store, key, entropy, damaged: AtomicU64::new(0) }) }
    }

    /// The store below, whose values are as on disk.
    pub fn raw(&self) -> &dyn Store {
        &*self.inner.store
    }

    /// Gives `f` what a value is bound to.
    fn with_aad<R>(space: Space, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> R {
        let mut short = [0; SHORT];
        match short.get_mut(..=key.len()) {
            Some(aad) => {
                aad[0] = space as u8;
                aad[1..].copy_from_slice(key);
                f(aad)
            }
            None => f(&[&[space as u8], key].concat()),
        }
    }

    /// Opens a value as it is on the disk.
    pub(crate) fn open(&self, space: Space, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        Self::with_aad(space, key, |aad| crypto::open(&self.inner.key, aad, sealed)).map_err(|_| {
            self.inner.damaged.fetch_add(1, Ordering::Relaxed);
            Error::damaged(format!("record in `{}`", space.name()))
        })
    }

    /// How often a value was not what this device had written.
    pub(crate) fn damaged(&self) -> u64 {
        self.inner.damaged.load(Ordering::Relaxed)
    }

    /// The value of `key`, opened.
    ///
    /// # Errors
    /// [`Error::Damaged`] when what is there was not written there by this device.
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.inner.store.get(space, key)? {
            Some(sealed) => self.open(space, key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    /// [`Store::scan`] with the values opened.
    pub fn scan(&self, space: Space, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
        let rows = self.inner.store.scan(space, from, to, limit)?;
        rows.into_iter()
            .map(|(key, sealed)| {
                let value = self.open(space, &key, &sealed)?;
                Ok((key, value))
            })
            .collect()
    }

    /// Seals `plain` for `key` into `batch`.
    pub fn put(&self, batch: &mut Batch, space: Space, key: impl Into<Vec<u8>>, plain: &[u8]) {
        let key = key.into();
        let seal = |aad: &[u8]| crypto::seal(&self.inner.key, aad, plain, &*self.inner.entropy);
        let sealed = Self::with_aad(space, &key, seal);
        batch.put(space, key, sealed);
    }

    /// Applies a batch made with [`Self::put`].
    pub fn apply(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        Ok(self.inner.store.apply(batch)?)
    }

    /// Makes everything applied before durable against power loss.
    pub fn sync(&self) -> Result<()> {
        Ok(self.inner.store.sync()?)
    }
}
