//! What is on a disk at one moment, and what of it is left when the power goes just then.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    contents::{Change, Contents, happened},
    disk::SimulatedDisk,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Folder,
    File(u64),
}

/// A change of a folder that no sync has made durable. `None`: the name goes.
#[derive(Debug, Clone)]
pub(super) struct Renamed(pub(super) PathBuf, pub(super) Option<Node>);

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    /// As programs see it.
    pub(super) live: Contents,
    /// As it is on the disk.
    pub(super) durable: Contents,
    pub(super) pending: Vec<Change>,
}

/// Everything that is or may be on the disk at one moment.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) durable: BTreeMap<PathBuf, Node>,
    pub(super) renamed: Vec<Renamed>,
    pub(super) files: BTreeMap<u64, File>,
    /// The operation it was taken before.
    pub(super) operation: u64,
}

impl Image {
    /// The disk as it comes up after the power went.
    pub(super) fn settle(self, seed: u64) -> SimulatedDisk {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut names = self.durable;
        // Changes of one name keep their order; those of different names do not.
        let mut decided = HashSet::new();
        for Renamed(path, node) in self.renamed {
            if decided.contains(&path) {
                continue;
            }
            if !happened(&mut rng) {
                decided.insert(path);
                continue;
            }
            match node {
                Some(node) => drop(names.insert(path, node)),
                None => drop(names.remove(&path)),
            }
        }
        let all = names.clone();
        names.retain(|path, _| path.ancestors().all(|above| all.contains_key(above)));
        let mut files = self.files;
        files.retain(|id, _| names.values().any(|node| *node == Node::File(*id)));
        for file in files.values_mut() {
            let mut contents = std::mem::take(&mut file.durable);
            contents.lose_power(std::mem::take(&mut file.pending), &mut rng);
            *file = File { live: contents.clone(), durable: contents, pending: Vec::new() };
        }
        SimulatedDisk::holding(names, files, rng.random())
    }
}
