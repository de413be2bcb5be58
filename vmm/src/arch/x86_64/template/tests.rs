//! Templates on processors that KVM might report.

use kvm_bindings::kvm_cpuid_entry2;
use vm_config::{CpuConfig, CpuTemplate};

use super::*;

const INTEL: [u32; 3] = [
    u32::from_le_bytes(*b"Genu"),
    u32::from_le_bytes(*b"ntel"),
    u32::from_le_bytes(*b"ineI"),
];
const AMD: [u32; 3] = [
    u32::from_le_bytes(*b"Auth"),
    u32::from_le_bytes(*b"cAMD"),
    u32::from_le_bytes(*b"enti"),
];

/// Everything on, in the leaves that the named templates change.
fn processor([ebx, ecx, edx]: [u32; 3], signature: u32) -> CpuId {
    let entry = |function, index, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    };
    let all = [u32::MAX; 4];
    let mut leaf_1 = all;
    leaf_1[0] = signature;
    CpuId::from_entries(&[
        entry(0, 0, [0x16, ebx, ecx, edx]),
        entry(1, 0, leaf_1),
        entry(7, 0, all),
        entry(7, 1, all),
        entry(0xd, 0, all),
        entry(0xd, 1, all),
        entry(0x8000_0001, 0, all),
        entry(0x8000_0008, 0, all),
    ])
    .unwrap()
}

fn leaf(cpuid: &CpuId, function: u32, index: u32) -> [u32; 4] {
    let mut entries = cpuid.as_slice().iter();
    let found = entries.find(|entry| entry.function == function && entry.index == index);
    let entry = found.unwrap();
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

fn custom(json: &str) -> CpuConfig {
    serde_json::from_str(json).unwrap()
}

fn with(name: CpuTemplate, vendor: [u32; 3], signature: u32) -> (CpuId, CpuConfig) {
    let mut cpuid = processor(vendor, signature);
    let template = named(name, cpuid.as_slice()).unwrap();
    apply(&mut cpuid, &template.cpuid_modifiers).unwrap();
    (cpuid, template)
}

#[test]
fn a_template_changes_what_it_names_and_nothing_else() {
    let mut cpuid = processor(INTEL, 0x5_0654);
    let template = custom(
        r#"{"cpuid_modifiers": [{"leaf": "0x7", "subleaf": "0x1", "flags": 0, "modifiers": [
            {"register": "ebx", "bitmap": "0b0xx0"}, {"register": "edx", "bitmap": "0b00"},
            {"register": "edx", "bitmap": "0b1x"}]}]}"#,
    );
    apply(&mut cpuid, &template.cpuid_modifiers).unwrap();
    let all = u32::MAX;
    assert_eq!(leaf(&cpuid, 7, 1), [all, all & !0b1001, all, all & !0b01]);
    assert_eq!(leaf(&cpuid, 7, 0), [all; 4]);
}

#[test]
fn an_entry_that_kvm_does_not_have_is_named_in_hexadecimal() {
    let mut cpuid = processor(INTEL, 0x5_0654);
    let template = custom(
        r#"{"cpuid_modifiers": [{"leaf": "0x8000001f", "subleaf": "0xa", "flags": 0, "modifiers": []}]}"#,
    );
    let why = apply(&mut cpuid, &template.cpuid_modifiers).unwrap_err();
    let text = "Template changes a CPUID entry not supported by KVM: Leaf: 8000001f, Subleaf: a";
    assert!(why.to_string().starts_with(text), "{why}");
}

#[test]
fn names_are_for_the_processors_they_were_made_for() {
    use CpuTemplate::{C3, None, T2, T2A, T2CL, T2S};
    let (skylake, cascade_lake, ice_lake) = (0x5_0654, 0x5_0657, 0x6_06a6);
    for (signature, good) in [
        (skylake, [true, true, true, false]),
        (cascade_lake, [true, true, true, true]),
        (ice_lake, [true, true, false, true]),
        (0x8_06f8, [false; 4]),
    ] {
        let cpuid = processor(INTEL, signature);
        for (name, is_good) in [C3, T2, T2S, T2CL].into_iter().zip(good) {
            let model = NamedTemplateError::Model { name, signature };
            let expected = if is_good { Ok(()) } else { Err(model) };
            assert_eq!(named(name, cpuid.as_slice()).map(drop), expected);
        }
        let vendor = Err(NamedTemplateError::Vendor(T2A));
        assert_eq!(named(T2A, cpuid.as_slice()), vendor);
    }
    let milan = processor(AMD, 0xa0_0f11);
    assert!(named(T2A, milan.as_slice()).is_ok());
    assert_eq!(
        named(T2, milan.as_slice()),
        Err(NamedTemplateError::Vendor(T2))
    );
    assert_eq!(named(None, milan.as_slice()), Ok(CpuConfig::default()));
    assert!(named(T2A, processor(AMD, 0xa1_0f11).as_slice()).is_err());
}

#[test]
fn t2_looks_like_a_haswell() {
    let (cpuid, template) = with(CpuTemplate::T2, INTEL, 0x6_06a6);
    assert_eq!(leaf(&cpuid, 1, 0)[0], 0x3_06f2);
    let [_, ebx, ecx, _] = leaf(&cpuid, 7, 0);
    // AVX-512F, CLWB and SHA are hidden; BMI1, AVX2, BMI2 and ERMS stay.
    assert_eq!(ebx & (1 << 16 | 1 << 24 | 1 << 29), 0);
    assert_eq!(!ebx & (1 << 3 | 1 << 5 | 1 << 8 | 1 << 9), 0);
    // PKU and LA57.
    assert_eq!(ecx & (1 << 3 | 1 << 16), 0);
    // x87, SSE and AVX state stay; AVX-512's does not.
    assert_eq!(leaf(&cpuid, 0xd, 0)[0] & 0xff, 0b0000_0111);
    assert_eq!(leaf(&cpuid, 0xd, 1)[0] & 0b1111, 0b0001);
    assert!(template.msr_modifiers.is_empty());
}

#[test]
fn c3_hides_what_came_after_ivy_bridge() {
    let (cpuid, _) = with(CpuTemplate::C3, INTEL, 0x5_0657);
    assert_eq!(leaf(&cpuid, 1, 0)[0], 0x3_06e4);
    // FMA and MOVBE; BMI1, AVX2, BMI2; LZCNT.
    assert_eq!(leaf(&cpuid, 1, 0)[2] & (1 << 12 | 1 << 22), 0);
    assert_eq!(leaf(&cpuid, 7, 0)[1] & (1 << 3 | 1 << 5 | 1 << 8), 0);
    assert_eq!(leaf(&cpuid, 0x8000_0001, 0)[2] & 1 << 5, 0);
}

#[test]
fn t2a_and_t2cl_show_the_same_instructions() {
    let (amd, _) = with(CpuTemplate::T2A, AMD, 0xa0_0f11);
    let (intel, template) = with(CpuTemplate::T2CL, INTEL, 0x6_06a6);
    for (function, index) in [(1, 0), (7, 0), (0xd, 0), (0xd, 1)] {
        assert_eq!(leaf(&amd, function, index), leaf(&intel, function, index));
    }
    // SVM, SSE4A and MONITORX.
    assert_eq!(
        leaf(&amd, 0x8000_0001, 0)[2] & (1 << 2 | 1 << 6 | 1 << 29),
        0
    );
    let [msr] = template.msr_modifiers[..] else {
        panic!("{template:?}");
    };
    // RDCL_NO is kept, ITS_NO, of which the template knows nothing, is not.
    assert_eq!(
        (msr.addr, msr.bitmap.apply(u64::MAX) & (1 | 1 << 62)),
        (0x10a, 1)
    );
}

#[test]
fn t2s_states_every_bit_of_the_capabilities() {
    let (_, template) = with(CpuTemplate::T2S, INTEL, 0x5_0654);
    let change = template.msr_modifiers[0];
    assert_eq!(change.addr, 0x10a);
    assert_eq!(change.bitmap.apply(0), change.bitmap.apply(u64::MAX));
    // FB_CLEAR.
    assert_ne!(change.bitmap.apply(0) & 1 << 17, 0);
}
