//! [`ObjectOptions`]: what differs between the stores that hold objects, and the sizes of what is sent to them.

use crate::vfs::bounded::WRITE_BACK_BYTES_MAX;

const MIB: u64 = 1024 * 1024;

/// Up to this size a file is written with one conditional PUT, which is atomic; above it with parts, whose
/// last version check leaves a window. Larger makes more files atomic and costs as much memory.
pub(super) const SINGLE_PUT_MAX: u64 = WRITE_BACK_BYTES_MAX;
/// Bytes of a part at least. S3 and GCS take 5 MiB and more; at 16 MiB a request's fixed cost is some percent.
pub(super) const PART_MIN: u64 = 16 * MIB;
/// Parts of an upload at most: what S3 and GCS take. Azure takes 50,000.
pub(super) const PARTS_MAX: u64 = 10_000;
/// The largest part: two are held in memory, and together they are what a write-back may hold.
const PART_MAX: u64 = WRITE_BACK_BYTES_MAX / 2;
/// The largest file of a store of objects: 10,000 parts of 32 MiB are 312.5 GiB. S3 would take 5 TiB in parts of
/// 512 MiB. It is also what a truncation can make the server upload.
pub(super) const FILE_MAX: u64 = PARTS_MAX * PART_MAX;
/// The largest file of a store in memory: it is held there, once more while it is rewritten.
pub(super) const MEMORY_FILE_MAX: u64 = 1024 * MIB;

/// Bytes of the longest key: what S3, GCS and Azure take.
pub(super) const KEY_MAX: usize = 1024;

/// What differs between stores.
#[derive(Clone, Copy, Debug)]
pub struct ObjectOptions {
    /// Largest file that is written.
    pub max_file_size: u64,
    /// Largest file that is written with one PUT.
    pub single_put_max: u64,
    /// Bytes of a part at least.
    pub part_min: u64,
    /// Bytes of the longest key.
    pub key_max: usize,
    /// What tells two contents of an object apart, and what a conditional PUT asks for.
    pub identity: Identity,
    /// Whether the store can be trusted with conditions.
    pub conditions: Conditions,
}

/// What tells two contents of an object apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The e_tag. S3's version ids are left out: no condition can name one, and lists do not show them.
    ETag,
    /// The e_tag and the store's generation number, which GCS's conditional PUT asks for.
    ETagAndGeneration,
}

/// Whether the store can be trusted with conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Each PUT is conditional.
    Required,
    /// The store takes no conditions: the version is asked for before each PUT, and what happens in between
    /// is overwritten. Only for `unsafe-overwrite`.
    AskedBefore,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self {
            max_file_size: FILE_MAX,
            single_put_max: SINGLE_PUT_MAX,
            part_min: PART_MIN,
            key_max: KEY_MAX,
            identity: Identity::ETag,
            conditions: Conditions::Required,
        }
    }
}

impl ObjectOptions {
    /// Bytes of each part but the last of a file of `size` bytes: whole MiB where the least part is, the same
    /// for all parts, because some stores (R2) ask for that.
    pub(super) fn part_size(&self, size: u64) -> u64 {
        self.part_min.max(1).max(size.div_ceil(PARTS_MAX).next_multiple_of(MIB.min(self.part_min.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_fits_the_largest_number_of_parts() {
        let options = ObjectOptions::default();
        for size in [1, 100 * MIB, PARTS_MAX * PART_MIN, PARTS_MAX * PART_MIN + 1, FILE_MAX - 1, FILE_MAX] {
            let part = options.part_size(size);
            assert!(size.div_ceil(part) <= PARTS_MAX && (PART_MIN..=PART_MAX).contains(&part), "{size}");
        }
    }
}
