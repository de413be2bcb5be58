//! Templates as users write them, right and wrong.

use super::*;

fn parse(text: &str) -> Result<CpuConfig, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn refused(text: &str, why: &str) {
    let message = parse(text).expect_err(text);
    assert!(message.contains(why), "{text}: {message}");
}

fn bitmap<const BITS: u32>(text: &str) -> Bitmap<BITS> {
    serde_json::from_value(text.into()).unwrap()
}

#[test]
fn nothing_is_a_template() {
    assert_eq!(parse("{}").unwrap(), CpuConfig::default());
}

#[test]
fn a_template_is_read_and_written_back() {
    let text = r#"{"kvm_capabilities":["171","!172"],"cpuid_modifiers":[{"leaf":"0x80000001","subleaf":"0b10","flags":1,"modifiers":[{"register":"ecx","bitmap":"0b1x0_x1"}]}],"msr_modifiers":[{"addr":"0x10a","bitmap":"0b01"}]}"#;
    let read = parse(text).unwrap();
    let cpuid = CpuidModifier {
        leaf: 0x8000_0001,
        subleaf: 2,
        flags: 1,
        modifiers: vec![RegisterModifier {
            register: CpuidRegister::Ecx,
            bitmap: Bitmap::new(0b10001, 0b00100),
        }],
    };
    let msr = MsrModifier {
        addr: 0x10a,
        bitmap: Bitmap::new(1, 2),
    };
    let expected = CpuConfig {
        kvm_capabilities: vec![KvmCapability::Require(171), KvmCapability::Waive(172)],
        cpuid_modifiers: vec![cpuid],
        msr_modifiers: vec![msr],
    };
    assert_eq!(read, expected);
    let again = serde_json::to_string(&read).unwrap();
    assert_eq!(parse(&again).unwrap(), expected);
    assert!(again.contains(r#""leaf":"0x80000001""#), "{again}");
    let x27 = "x".repeat(27);
    assert!(again.contains(&format!("\"0b{x27}1x0x1\"")), "{again}");
}

#[test]
fn a_bitmap_sets_clears_and_keeps() {
    let change: Bitmap<32> = bitmap("0b10x");
    assert_eq!(change.apply_u32(0b0010), 0b0100);
    assert_eq!(change.apply_u32(0xffff_ffff), 0xffff_fffd);
    assert_eq!(change.changed(), 0b110);
    let all = "1".repeat(64);
    assert_eq!(bitmap::<64>(&format!("0b{all}")).apply(0), u64::MAX);
    assert_eq!(bitmap::<32>("0b").changed(), 0);
    assert_eq!(Bitmap::<64>::exactly(5).apply(u64::MAX), 5);
}

#[test]
fn bitmaps_that_are_none_are_refused() {
    let with = |bits: &str| format!(r#"{{"msr_modifiers":[{{"addr":"0x1","bitmap":"{bits}"}}]}}"#);
    assert!(parse(&with(&format!("0b{}", "x".repeat(64)))).is_ok());
    refused(&with(&format!("0b{}", "x".repeat(65))), "more than 64 bits");
    refused(&with("0x1"), "No supported number system prefix");
    refused(&with("0b12"), "'2' is none of");
    refused(&with("0b1X"), "'X' is none of");
}

#[test]
fn numbers_need_a_prefix_and_fit_in_32_bits() {
    let with = |addr: &str| format!(r#"{{"msr_modifiers":[{{"addr":{addr},"bitmap":"0b"}}]}}"#);
    assert!(parse(&with(r#""0xffffffff""#)).is_ok());
    refused(
        &with(r#""266""#),
        "No supported number system prefix found in value [266]",
    );
    refused(
        &with("266"),
        "invalid type: integer `266`, expected a string",
    );
    for wrong in ["0x100000000", "0x", "0b", "0b2", "0x+1", "0x-1", "0x 1"] {
        refused(&with(&format!("\"{wrong}\"")), "Failed to parse string [");
    }
}

#[test]
fn capabilities_are_decimal() {
    for wrong in [
        "",
        "!",
        "0x1",
        "+1",
        "!!1",
        "-1",
        "4294967296",
        "KVM_CAP_XCRS",
    ] {
        refused(
            &format!(r#"{{"kvm_capabilities":["{wrong}"]}}"#),
            "invalid KVM capability",
        );
    }
}

#[test]
fn unknown_keys_are_mistakes_at_the_top_only() {
    refused(r#"{"reg_modifiers":[]}"#, "unknown field `reg_modifiers`");
    refused(r#"{"vcpu_features":[]}"#, "unknown field `vcpu_features`");
    refused(
        r#"{"msr_modifiers":[],"msr_modifiers":[]}"#,
        "duplicate field `msr_modifiers`",
    );
    let noted = r#"{"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0x0","flags":0,"note":"n","modifiers":[]}]}"#;
    assert_eq!(parse(noted).unwrap().cpuid_modifiers.len(), 1);
    refused(
        r#"{"msr_modifiers":[{"addr":"0x1"}]}"#,
        "missing field `bitmap`",
    );
    let register = r#"{"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0x0","flags":0,"modifiers":[{"register":"rax","bitmap":"0b"}]}]}"#;
    refused(register, "unknown variant `rax`, expected one of `eax`,");
}

#[test]
fn lists_have_an_end() {
    let with = |count: usize| {
        let all = vec![r#""1""#; count].join(",");
        format!(r#"{{"kvm_capabilities":[{all}]}}"#)
    };
    assert_eq!(
        parse(&with(MAX_ENTRIES)).unwrap().kvm_capabilities.len(),
        MAX_ENTRIES
    );
    refused(
        &with(MAX_ENTRIES + 1),
        "expected a list of at most 4096 entries",
    );
}
