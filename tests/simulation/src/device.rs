//! One member's machine: its keys, disk, clock, the volume while it runs, and what its users have open.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crypto::{DeviceId, DeviceKeys, Entropy, SeededEntropy, SymmetricKey, UserId, UserKeys, VolumeId};
use volume::{DeviceRequest, Error, Handle, Ino, JoinRequest, Parts, Result, Role, Volume};

use crate::{
    clock::{DeviceClock, WorldTime},
    disk::Disk,
    ledger::Print,
};

/// A file that is open for writing.
pub(crate) struct Open {
    pub handle: Handle,
    pub ino: Ino,
    /// What it showed when it was opened.
    pub base: Vec<u8>,
    pub append: bool,
}

/// What is known of a file that somebody has open for writing.
#[derive(Default)]
pub(crate) struct Mirror {
    pub writers: u32,
    /// What it must show here, once something was written.
    pub bytes: Option<Vec<u8>>,
    /// Its name was taken away here since: what is written now need not be kept.
    pub doomed: bool,
}

/// See the module.
pub(crate) struct Device {
    /// Its user.
    pub name: String,
    /// What the user may.
    pub role: Role,
    /// `None` while it is switched off.
    pub volume: Option<Volume>,
    /// Its disk.
    pub disk: Arc<Disk>,
    /// Its clock.
    pub clock: Arc<DeviceClock>,
    pub(crate) opens: Vec<Open>,
    pub(crate) files: BTreeMap<Ino, Mirror>,
    /// Which version of each file was seen here last.
    pub(crate) shown: BTreeMap<Ino, Print>,
    /// The same of what was on the disk by then, so that power loss does not excuse an older one.
    pub(crate) shown_for_good: BTreeMap<Ino, Print>,
    /// Files that could not be published at their last close: the volume tries on.
    pub(crate) blurred: BTreeSet<Ino>,
    seed: u64,
    boots: u64,
    /// On a mount of its user's own, modes and lists say which members may what: the number that its user has there.
    pub own_mount: Option<u32>,
    /// Its disk was replaced by an older copy, which shows at the next start.
    pub copied: bool,
    id: VolumeId,
    /// Its and its user's names. Working them out of the keys takes long.
    names: (DeviceId, UserId),
    secret: SymmetricKey,
    device: Vec<u8>,
    user: Vec<u8>,
}

fn keys(device: &[u8], user: &[u8]) -> (DeviceKeys, UserKeys) {
    let device = DeviceKeys::from_bytes(device).expect("made by this program");
    (device, UserKeys::from_bytes(user).expect("made by this program"))
}

impl Device {
    fn blank(name: &str, role: Role, seed: u64, time: &Arc<WorldTime>) -> Device {
        let entropy = SeededEntropy::new(seed);
        let secret = SymmetricKey::generate(&entropy);
        let (device, user) = (DeviceKeys::generate(&entropy), UserKeys::generate(&entropy));
        Device {
            name: name.to_owned(),
            role,
            volume: None,
            disk: Arc::default(),
            clock: Arc::new(DeviceClock::new(time.clone())),
            opens: Vec::new(),
            files: BTreeMap::new(),
            shown: BTreeMap::new(),
            shown_for_good: BTreeMap::new(),
            blurred: BTreeSet::new(),
            seed,
            boots: 0,
            own_mount: None,
            copied: false,
            id: VolumeId::ZERO,
            names: (device.id(), user.id()),
            secret,
            device: device.to_bytes().to_vec(),
            user: user.to_bytes().to_vec(),
        }
    }

    fn parts(&mut self) -> Parts {
        self.boots += 1;
        let (device, user) = keys(&self.device, &self.user);
        Parts {
            store: self.disk.clone(),
            blocks: self.disk.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(self.seed.wrapping_add(self.boots << 32))),
            secret: self.secret.clone(),
            device,
            user,
            archive: None,
            directory: None,
        }
    }

    /// Who makes the volume.
    pub(crate) fn founder(name: &str, seed: u64, time: &Arc<WorldTime>) -> Result<Device> {
        let mut device = Self::blank(name, Role::Owner, seed, time);
        let volume = Volume::found(device.parts(), name)?;
        device.id = volume.id();
        device.volume = Some(volume);
        Ok(device)
    }

    /// Who is admitted by `admin`; knows nothing yet.
    pub(crate) fn joined(name: &str, role: Role, seed: u64, time: &Arc<WorldTime>, admin: &Volume) -> Result<Device> {
        let mut device = Self::blank(name, role, seed, time);
        let ticket = admin.invite(role, Duration::from_secs(86_400))?;
        let (device_keys, user_keys) = keys(&device.device, &device.user);
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed ^ 1));
        let request = JoinRequest::new(&ticket, name, &user_keys, &device_keys, b"exporter", &*entropy)
            .map_err(Error::Refused)?;
        let grant = admin.admit(&request, b"exporter")?;
        device.id = grant.volume;
        let volume = Volume::load(device.parts(), grant.volume)?;
        volume.accept(&grant)?;
        device.volume = Some(volume);
        Ok(device)
    }

    /// A further device of the user of `first`, who lets it in; knows nothing yet.
    pub(crate) fn further(name: &str, seed: u64, time: &Arc<WorldTime>, first: &Device) -> Result<Device> {
        let mut device = Self::blank(name, first.role, seed, time);
        let Some(host) = &first.volume else { return Err(Error::NotFound) };
        let ticket = host.invite_device(Some(Duration::from_secs(86_400)))?;
        let request = DeviceRequest::new(&ticket, &device.keys(), None, b"exporter");
        let grant = host.admit_device(&request, b"exporter")?;
        let user = grant.open(&first.user_id(), &device.keys()).map_err(Error::Refused)?;
        device.user = user.to_bytes().to_vec();
        device.names.1 = first.user_id();
        device.id = grant.volume;
        let volume = Volume::load(device.parts(), grant.volume)?;
        volume.accept_device(&grant)?;
        device.volume = Some(volume);
        Ok(device)
    }

    /// Whether it can let in further devices of its user.
    pub(crate) fn can_certify(&self) -> bool {
        self.user_keys().signing.is_some()
    }

    /// Its replica once more, on a disk with nothing but these blocks.
    pub(crate) fn anew(&mut self, blocks: Disk) -> Result<Volume> {
        let Some(grant) = self.volume.as_ref().map(Volume::own_grant).transpose()? else { return Err(Error::NotFound) };
        let disk = Arc::new(blocks);
        let parts = Parts { store: disk.clone(), blocks: disk, ..self.parts() };
        let volume = Volume::load(parts, self.id)?;
        volume.accept(&grant)?;
        volume.set_own_mount(self.own_mount);
        Ok(volume)
    }

    /// Lives on a mount of its user's own from now on.
    pub(crate) fn live_on_own_mount(&mut self, number: u32) {
        self.own_mount = Some(number);
        if let Some(volume) = &self.volume {
            volume.set_own_mount(self.own_mount);
        }
    }

    /// Starts it with what its disk has.
    pub(crate) fn start(&mut self) -> Result<()> {
        let (parts, id) = (self.parts(), self.id);
        let volume = if self.copied { Volume::load_copy(parts, id)? } else { Volume::load(parts, id)? };
        self.copied = false;
        volume.set_own_mount(self.own_mount);
        self.volume = Some(volume);
        Ok(())
    }

    /// A synced draft that may not be published is shown here alone.
    pub(crate) fn note_unpublished(&mut self) {
        if let Some(volume) = &self.volume {
            self.blurred.extend(volume.unpublished().iter().map(|file| file.ino));
        }
    }

    /// Ends its process, there and then.
    pub(crate) fn stop(&mut self) {
        self.volume = None;
        self.opens.clear();
        self.files.clear();
        for ino in std::mem::take(&mut self.blurred) {
            self.shown.remove(&ino);
            self.shown_for_good.remove(&ino);
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> DeviceId {
        self.names.0
    }

    /// Its user's name among keys.
    pub(crate) fn user_id(&self) -> UserId {
        self.names.1
    }

    /// Its keys.
    pub(crate) fn keys(&self) -> DeviceKeys {
        keys(&self.device, &self.user).0
    }

    /// Its user's keys.
    pub(crate) fn user_keys(&self) -> UserKeys {
        keys(&self.device, &self.user).1
    }
}
