//! Groups of metrics, each with the description that every way to show it is made from.

/// What a number of a group is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Micros,
    /// Nanoseconds; told in microseconds by the metrics file.
    Nanos,
}

/// Metrics that belong together: those of a device, or of a part of the process.
pub trait Group: Send + Sync {
    /// What it is and what it has. The same for every group of the type.
    fn about(&self) -> &'static About;
    /// Reads every number, in the order of the description.
    fn read(&self, into: &mut [u64]);
}

/// One of those that are there from the start.
impl<G: Group + ?Sized> Group for &'static G {
    fn about(&self) -> &'static About {
        (**self).about()
    }

    fn read(&self, into: &mut [u64]) {
        (**self).read(into);
    }
}

/// The description of a [`Group`].
#[derive(Debug)]
pub struct About {
    /// Its key in the metrics file.
    pub key: &'static str,
    /// What it is about.
    pub help: &'static str,
    /// Its metrics, in the order of the metrics file.
    pub fields: &'static [Field],
}

/// The description of one metric.
#[derive(Debug)]
pub struct Field {
    /// Its key.
    pub key: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Of each of its numbers.
    pub unit: Unit,
    /// Its numbers.
    pub parts: &'static [super::Part],
}

impl About {
    /// How many numbers a group has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.iter().map(|field| field.parts.len()).sum()
    }

    /// A group without numbers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Makes groups: each a struct of metrics, with its key in the metrics file, and from the same rows its description. A row
/// is a field, with `in` and a [`Unit`] where it has one; its documentation is what users read of it.
#[macro_export]
macro_rules! metric_groups {
    ($(
        $(#[doc = $about:literal])+
        $visible:vis struct $name:ident = $key:literal {
            $(
                $(#[doc = $help:literal])+
                pub $field:ident: $metric:ident $(in $unit:ident)?,
            )*
        }
    )*) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        $visible struct $name {
            $($(#[doc = $help])+ pub $field: $crate::metrics::$metric,)*
        }

        impl $name {
            /// Nothing counted yet.
            #[must_use]
            pub const fn new() -> Self {
                Self { $($field: $crate::metrics::$metric::new()),* }
            }

            /// What it is and what it has.
            pub const ABOUT: &'static $crate::metrics::About = &$crate::metrics::About {
                key: $key,
                help: concat!($($about),+),
                fields: &[$($crate::metrics::Field {
                    key: stringify!($field),
                    help: concat!($($help),+),
                    unit: $crate::metric_groups!(@unit $metric $($unit)?),
                    parts: <$crate::metrics::$metric as $crate::metrics::Metric>::PARTS,
                }),*],
            };
        }

        impl $crate::metrics::Group for $name {
            fn about(&self) -> &'static $crate::metrics::About {
                Self::ABOUT
            }

            fn read(&self, into: &mut [u64]) {
                let mut rest = into;
                $(
                    let parts = <$crate::metrics::$metric as $crate::metrics::Metric>::PARTS.len();
                    let (own, after) = rest.split_at_mut(parts);
                    $crate::metrics::Metric::read(&self.$field, own);
                    rest = after;
                )*
                let _ = rest;
            }
        }
    )*};
    (@unit Latency) => { $crate::metrics::Unit::Nanos };
    (@unit $metric:ident) => { $crate::metrics::Unit::Count };
    (@unit $metric:ident $unit:ident) => { $crate::metrics::Unit::$unit };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Kind, NetMetrics};

    #[test]
    fn a_group_reads_its_numbers_in_the_order_of_its_description() {
        let net = NetMetrics::new();
        net.tap_read_fails.add(3);
        net.tap_write_agg.record(Duration::from_nanos(7));
        net.tx_bytes_count.add(9);
        let about = net.about();
        let mut numbers = vec![0; about.len()];
        net.read(&mut numbers);
        let mut told = Vec::new();
        let mut rest = numbers.as_slice();
        for field in about.fields {
            let (own, after) = rest.split_at(field.parts.len());
            rest = after;
            if own.iter().any(|number| *number > 0) {
                told.push((field.key, field.unit, own.to_vec()));
            }
        }
        let expected = [
            ("tap_read_fails", Unit::Count, vec![3]),
            ("tap_write_agg", Unit::Nanos, vec![7, 7, 7]),
            ("tx_bytes_count", Unit::Bytes, vec![9]),
        ];
        assert_eq!(told, expected);
        assert!(rest.is_empty());
    }

    #[test]
    fn only_what_is_measured_in_time_or_bytes_says_so() {
        let fields = NetMetrics::ABOUT.fields;
        let unit = |key| fields.iter().find(|field| field.key == key).unwrap().unit;
        assert_eq!(unit("rx_bytes_count"), Unit::Bytes);
        assert_eq!(unit("rx_packets_count"), Unit::Count);
        let kinds: Vec<Kind> = fields[15].parts.iter().map(|part| part.kind).collect();
        assert_eq!(fields[15].key, "tap_write_agg");
        assert_eq!(kinds, [Kind::Min, Kind::Max, Kind::Counter]);
    }
}
