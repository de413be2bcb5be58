//! The balloon as a user states it, and what it tells.

use serde::{Deserialize, Serialize};

/// `PUT /balloon`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BalloonConfig {
    /// Memory that the guest is to give up, MiB; at most what it has.
    pub amount_mib: u32,
    /// The guest takes memory back before it kills a process for want of it.
    pub deflate_on_oom: bool,
    /// Seconds between two statistics of the guest; 0 turns them off.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(maximum = 65535))]
    pub stats_polling_interval_s: u16,
    /// The guest can be asked which pages are free.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// The guest tells of free pages by itself.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// `PATCH /balloon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BalloonPatch {
    /// Memory that the guest is to give up, MiB; at most what it has.
    pub amount_mib: u32,
}

/// `PATCH /balloon/statistics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BalloonStatisticsPatch {
    /// Seconds between two statistics of the guest; from or to 0 only before the start.
    #[cfg_attr(feature = "openapi", schema(maximum = 65535))]
    pub stats_polling_interval_s: u16,
}

/// `PATCH /balloon/hinting/start`. Unknown fields are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HintingStart {
    /// When the guest has named all its free pages, it is told to use them again.
    #[serde(default = "yes")]
    pub acknowledge_on_stop: bool,
}

/// `GET /balloon/hinting/status`. 0: stopped; 1: done, the guest may use its free pages; 2 and above: a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HintingStatus {
    /// What the monitor last asked for.
    pub host_cmd: u32,
    /// What the guest last said it does; null as long as it said nothing.
    pub guest_cmd: Option<u32>,
}

/// `GET /balloon/statistics`. A figure that the guest never sent is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BalloonStatistics {
    /// Pages of 4 KiB that the guest is to give up.
    pub target_pages: u32,
    /// Pages that it gave up.
    pub actual_pages: u32,
    /// The same in MiB.
    pub target_mib: u32,
    /// The same in MiB.
    pub actual_mib: u32,
    /// What the guest says.
    #[serde(flatten)]
    pub guest: GuestStatistics,
}

/// What a guest says of its memory (virtio 1.2 §5.5.6.3). Amounts of memory are bytes, the rest are counts
/// since the guest's boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct GuestStatistics {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}

impl Default for HintingStart {
    fn default() -> Self {
        Self {
            acknowledge_on_stop: true,
        }
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_never_came_are_absent() {
        let statistics = BalloonStatistics {
            target_pages: 256,
            target_mib: 1,
            guest: GuestStatistics {
                free_memory: Some(7),
                ..GuestStatistics::default()
            },
            ..BalloonStatistics::default()
        };
        assert_eq!(
            serde_json::to_string(&statistics).unwrap(),
            r#"{"target_pages":256,"actual_pages":0,"target_mib":1,"actual_mib":0,"free_memory":7}"#
        );
    }

    #[test]
    fn hinting_is_acknowledged_unless_told_otherwise() {
        for (body, is_acknowledged) in [
            ("{}", true),
            (r#"{"zebra": 1}"#, true),
            (r#"{"acknowledge_on_stop": false}"#, false),
        ] {
            let start: HintingStart = serde_json::from_str(body).unwrap();
            assert_eq!(start.acknowledge_on_stop, is_acknowledged, "{body}");
        }
    }
}
