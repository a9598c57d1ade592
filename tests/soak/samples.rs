//! What the daemon takes of the machine, every second, and whether that stays flat.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use postrider_tests::process::{descriptors, resident_bytes};

/// The unit of `st_blocks`, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;
/// Growth that is still flat, as a fraction of what there was.
const GROWTH_MAX: f64 = 1.25;
/// Files may be so many times as large as the bodies that retention keeps, whether they grow or not.
const LIVE_MAX: f64 = 3.0;
/// Fewer samples than of eight minutes say nothing: in the first two of them files still grow to what retention keeps.
const SAMPLES_MIN: usize = 8 * 60 * 9 / 10;

/// One look at the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Memory in RAM, in MiB.
    pub(crate) resident_mib: f64,
    /// Open descriptors.
    pub(crate) descriptors: f64,
    /// Room that `hot.redb` takes on the disk, in MiB.
    pub(crate) hot_mib: f64,
    /// Room that all segments take, in MiB.
    pub(crate) segments_mib: f64,
    /// How many segments there are.
    pub(crate) segments: usize,
}

impl Sample {
    /// Looks at the daemon of that process id; `None` if it has ended.
    pub(crate) fn take(pid: u32, data: &Path) -> Option<Self> {
        let files = fs::read_dir(data.join("segments")).into_iter().flatten().flatten();
        // Files may go at any moment.
        let segments: Vec<u64> = files.filter_map(|file| Some(file.metadata().ok()?.blocks() * BLOCK_BYTES)).collect();
        let hot = fs::metadata(data.join("hot.redb")).map_or(0, |metadata| metadata.blocks() * BLOCK_BYTES);
        Some(Self {
            resident_mib: mib(resident_bytes(pid)?),
            descriptors: f64::from(u32::try_from(descriptors(pid)?).ok()?),
            hot_mib: mib(hot),
            segments_mib: mib(segments.iter().sum()),
            segments: segments.len(),
        })
    }
}

/// Bytes in MiB.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// One quantity over the whole time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trend {
    /// Median of the second quarter.
    pub(crate) second: f64,
    /// Median of the last quarter.
    pub(crate) last: f64,
    /// Largest at any time.
    pub(crate) max: f64,
    /// Up to where the last would be flat.
    pub(crate) bound: f64,
    /// Whether it is; `None` if there was not enough time to tell.
    pub(crate) flat: Option<bool>,
}

/// The trend of one quantity. `allowance`: what it may grow on top. `live`: the bodies that retention keeps, of files.
pub(crate) fn trend(samples: &[Sample], quantity: fn(&Sample) -> f64, allowance: f64, live: Option<f64>) -> Trend {
    let values: Vec<f64> = samples.iter().map(quantity).collect();
    let quarter = values.len() / 4;
    let second = median(values.get(quarter..2 * quarter).unwrap_or_default());
    let last = median(values.get(3 * quarter..).unwrap_or_default());
    let bound = (second * GROWTH_MAX + allowance).max(live.unwrap_or_default() * LIVE_MAX);
    let flat = (values.len() >= SAMPLES_MIN).then_some(last <= bound);
    Trend { second, last, max: values.iter().copied().fold(0.0, f64::max), bound, flat }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(count: u32, resident: fn(u32) -> f64) -> Vec<Sample> {
        (0..count).map(|second| Sample { resident_mib: resident(second), ..Sample::default() }).collect()
    }

    #[test]
    fn growth_is_told_from_noise() {
        let check = |count, resident: fn(u32) -> f64, live, expected| {
            let trend = trend(&samples(count, resident), |sample| sample.resident_mib, 8.0, live);
            assert_eq!(trend.flat, expected, "{trend:?}");
        };
        check(1200, |_| 50.0, None, Some(true));
        check(1200, |second| if second % 60 < 20 { 20.0 } else { 60.0 }, None, Some(true));
        check(1200, |second| 50.0 + f64::from(second) / 10.0, None, Some(false));
        check(1200, |second| 50.0 + f64::from(second) / 10.0, Some(60.0), Some(true));
        check(60, f64::from, None, None);
        check(0, f64::from, None, None);
    }

    #[test]
    fn a_process_that_lives_can_be_looked_at() {
        let data = tempfile::tempdir().unwrap();
        let sample = Sample::take(std::process::id(), data.path()).unwrap();
        assert!(sample.resident_mib > 1.0 && sample.descriptors >= 3.0, "{sample:?}");
        assert_eq!(Sample::take(u32::MAX, data.path()), None);
    }
}
