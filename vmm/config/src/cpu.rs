//! `PUT /cpu-config`: a custom CPU template, the changes to what KVM would tell a guest of its processors.
//!
//! Unknown keys are mistakes at the top and are passed over inside, where templates of other tools keep notes. Keys
//! of another architecture are unknown. Lists are applied in order, so of two changes to one register the later has
//! the last word.

mod bitmap;
mod list;
mod number;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use bitmap::Bitmap;

/// The most entries a list of a template has: several times what a processor and KVM have.
const MAX_ENTRIES: usize = 4096;

/// `PUT /cpu-config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CpuConfig {
    /// KVM capabilities (`KVM_CAP_*`) that the host must have at the start: `"72"` is asked for too, `"!136"` is
    /// not asked for. At most 4096.
    #[serde(default, deserialize_with = "list::bounded")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub kvm_capabilities: Vec<KvmCapability>,
    /// Changes to what the CPUID instruction answers. At most 4096.
    #[serde(default, deserialize_with = "list::bounded")]
    pub cpuid_modifiers: Vec<CpuidModifier>,
    /// Changes to model-specific registers. At most 4096.
    #[serde(default, deserialize_with = "list::bounded")]
    pub msr_modifiers: Vec<MsrModifier>,
}

/// Changes to one entry of CPUID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CpuidModifier {
    /// Leaf: a string of `0x` and hexadecimal or `0b` and binary digits, 32 bits.
    #[serde(with = "number")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "0x7"))]
    pub leaf: u32,
    /// Subleaf, written as the leaf is; `0x0` where the leaf has none.
    #[serde(with = "number")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "0x0"))]
    pub subleaf: u32,
    /// `KVM_CPUID_FLAG_*` of the entry. KVM's own are kept, so a wrong value does no harm.
    pub flags: u32,
    /// Changes to its registers. At most 4096.
    #[serde(deserialize_with = "list::bounded")]
    pub modifiers: Vec<RegisterModifier>,
}

/// Changes to one register of a CPUID entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterModifier {
    /// Which register.
    pub register: CpuidRegister,
    /// `0b`, then up to 32 of `0` (cleared), `1` (set), `x` (kept) and `_` (nothing); what is missing at the left is
    /// kept.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "0bx0xx_xxxx"))]
    pub bitmap: Bitmap<32>,
}

/// A register of a CPUID entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the whole meaning")]
pub enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Changes to one model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MsrModifier {
    /// Which register, written as a CPUID leaf is.
    #[serde(with = "number")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "0x10a"))]
    pub addr: u32,
    /// As for a CPUID register, up to 64 bits.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "0bxxxx_0000"))]
    pub bitmap: Bitmap<64>,
}

/// A change to the list of capabilities that the host must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmCapability {
    /// The host must have this one too.
    Require(u32),
    /// The host need not have this one.
    Waive(u32),
}

impl Serialize for KvmCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Require(number) => serializer.collect_str(number),
            Self::Waive(number) => serializer.collect_str(&format_args!("!{number}")),
        }
    }
}

impl<'de> Deserialize<'de> for KvmCapability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (make, digits): (fn(u32) -> Self, _) = match text.strip_prefix('!') {
            Some(digits) => (Self::Waive, digits),
            None => (Self::Require, text.as_str()),
        };
        match digits.parse() {
            Ok(number) if digits.starts_with(|c: char| c.is_ascii_digit()) => Ok(make(number)),
            _ => Err(serde::de::Error::custom(format_args!(
                "invalid KVM capability {text:?}; give the decimal number of a KVM_CAP_*, with `!` in front to leave it out"
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
