//! CPUID as KVM reports it in three places, normalised.

use super::*;

fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    }
}

/// What KVM offers in software on an EPYC host: no topology, no brand, no TSC deadline.
fn amd() -> Vec<kvm_cpuid_entry2> {
    vec![
        entry(0, 0, [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        entry(1, 0, [0xa0_0f11, 0x0102_0855, 0x0020_a000, 0x078b_fbff]),
        entry(6, 0, [0, 0, 0, 0]),
        entry(7, 0, [0, 0x0180_0002, 4, 0x2000_0000]),
        entry(0xb, 0, [0, 0, 0, 0]),
        entry(0x4000_0000, 0, [0x4000_0001, 1, 2, 3]),
        entry(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
        entry(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, 0, [0, 0, 0, 0]),
        entry(0x8000_0008, 0, [0x3030, 5, 0x7001, 0]),
        entry(0x8000_001d, 0, [0x121, 0x01c0_003f, 0x3f, 0]),
        entry(0x8000_001d, 3, [0x4163, 0x03c0_003f, 0x7fff, 1]),
        entry(0x8000_001d, 4, [0, 0, 0, 0]),
    ]
}

fn intel() -> Vec<kvm_cpuid_entry2> {
    vec![
        entry(0, 0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        entry(1, 0, [0x6_06a6, 0x0a40_0800, 0x7ffe_fbff, 0xbfeb_fbff]),
        entry(4, 0, [0xfc00_4121, 0x02c0_003f, 0x3f, 0]),
        entry(4, 3, [0xfc1f_c163, 0x03c0_003f, 0xffff, 4]),
        entry(4, 4, [0, 0, 0, 0]),
        entry(6, 0, [0x77, 2, 9, 0]),
        entry(7, 0, [0, 0xf1bf_07ab, 0x0415_fc6e, 0]),
        entry(0xa, 0, [0x0830_0805, 0, 0, 0x604]),
        entry(0xb, 0, [1, 2, 0x100, 99]),
        entry(0x1f, 0, [1, 2, 0x100, 99]),
        entry(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
    ]
}

fn of(entries: &[kvm_cpuid_entry2], index: u8, count: u8, smt: bool) -> CpuId {
    let mut cpuid = CpuId::from_entries(entries).unwrap();
    let vcpu = Vcpu {
        topology: VcpuTopology { index, count, smt },
        has_tsc_deadline: true,
        host_brand: "Intel(R) Something @ 2.60GHz",
    };
    normalise(&mut cpuid, &vcpu).unwrap();
    cpuid
}

fn leaf(cpuid: &CpuId, function: u32, index: u32) -> [u32; 4] {
    let mut found = cpuid
        .as_slice()
        .iter()
        .filter(|e| e.function == function && e.index == index);
    let entry = found.next().expect("leaf exists");
    assert!(found.next().is_none(), "leaf {function:#x} twice");
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

fn brand(cpuid: &CpuId) -> String {
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|function| leaf(cpuid, function, 0))
        .flat_map(u32::to_le_bytes)
        .collect();
    String::from_utf8(bytes)
        .unwrap()
        .trim_matches('\0')
        .to_owned()
}

#[test]
fn leaf_1_names_the_vcpu_and_the_hypervisor() {
    for entries in [amd(), intel()] {
        let before = entries[1];
        let [_, ebx, ecx, edx] = leaf(&of(&entries, 5, 6, false), 1, 0);
        assert_eq!(ebx, 0x0508_0800 | before.ebx & 0xff);
        assert_eq!(ecx & 1 << 31, 1 << 31);
        assert_eq!(ecx & 1 << 24, 1 << 24);
        assert_eq!(ecx & 1 << 15, 0);
        assert_eq!(edx & 1 << 28, 1 << 28);
    }
}

#[test]
fn one_vcpu_has_no_siblings() {
    for entries in [amd(), intel()] {
        let cpuid = of(&entries, 0, 1, true);
        assert_eq!(leaf(&cpuid, 1, 0)[1] >> 16, 1);
        assert_eq!(leaf(&cpuid, 1, 0)[3] & 1 << 28, 0);
        assert_eq!(leaf(&cpuid, 0xb, 0), [0, 1, 0x100, 0]);
    }
}

#[test]
fn the_deadline_timer_follows_the_host() {
    let mut cpuid = CpuId::from_entries(&intel()).unwrap();
    let topology = VcpuTopology {
        index: 0,
        count: 1,
        smt: false,
    };
    let vcpu = Vcpu {
        topology,
        has_tsc_deadline: false,
        host_brand: "",
    };
    normalise(&mut cpuid, &vcpu).unwrap();
    assert_eq!(leaf(&cpuid, 1, 0)[2] & 1 << 24, 0);
}

#[test]
fn the_apic_timer_never_stops() {
    assert_eq!(leaf(&of(&amd(), 0, 1, false), 6, 0)[0] & 4, 4);
}

#[test]
fn extended_topology_has_room_for_32() {
    for entries in [amd(), intel()] {
        let cpuid = of(&entries, 3, 4, true);
        assert_eq!(leaf(&cpuid, 0xb, 0), [1, 2, 0x100, 3]);
        assert_eq!(leaf(&cpuid, 0xb, 1), [5, 4, 0x201, 3]);
        assert_eq!(leaf(&cpuid, 0xb, 2), [0, 0, 2, 3]);
    }
    assert_eq!(leaf(&of(&intel(), 3, 4, true), 0x1f, 1), [5, 4, 0x201, 3]);
}

#[test]
fn kvm_leaves_pass_through() {
    let cpuid = of(&amd(), 0, 2, false);
    assert_eq!(leaf(&cpuid, 0x4000_0001, 0), [0x0100_7efb, 0, 0, 0]);
    assert_eq!(leaf(&cpuid, 0x4000_0000, 0), [0x4000_0001, 1, 2, 3]);
}

#[test]
fn amd_caches_and_cores_are_the_machines() {
    let cpuid = of(&amd(), 5, 8, true);
    assert_eq!(brand(&cpuid), "AMD EPYC");
    assert_eq!(leaf(&cpuid, 0x8000_0000, 0)[0], 0x8000_001e);
    assert_eq!(leaf(&cpuid, 0x8000_0001, 0)[2] & 1 << 22, 1 << 22);
    assert_eq!(leaf(&cpuid, 0x8000_0008, 0)[2], 0x5007);
    assert_eq!(leaf(&cpuid, 0x8000_001d, 0)[0], 0x4121);
    assert_eq!(leaf(&cpuid, 0x8000_001d, 3)[0], 0x1_c163);
    assert_eq!(leaf(&cpuid, 0x8000_001d, 4)[0], 0);
    assert_eq!(leaf(&cpuid, 0x8000_001e, 0), [5, 0x102, 0, 0]);
    assert_eq!(leaf(&cpuid, 7, 0)[3] & 1 << 29, 0);
}

#[test]
fn intel_caches_and_power_bits_are_the_machines() {
    let cpuid = of(&intel(), 1, 4, true);
    assert_eq!(brand(&cpuid), "Intel(R) Xeon(R) Processor @ 2.60GHz");
    assert_eq!(leaf(&cpuid, 4, 0)[0], 0x0400_4121);
    assert_eq!(leaf(&cpuid, 4, 3)[0], 0x0400_c163);
    assert_eq!(leaf(&cpuid, 6, 0), [0x75, 2, 1, 0]);
    let [_, ebx, ecx, _] = leaf(&cpuid, 7, 0);
    assert_eq!(ebx & 0x2040, 0x2040);
    assert_eq!(ecx & 0x20, 0);
    assert_eq!(leaf(&cpuid, 0xa, 0), [0; 4]);
}

#[test]
fn normalising_twice_changes_nothing_more() {
    for entries in [amd(), intel()] {
        let once = of(&entries, 2, 4, false);
        let twice = of(once.as_slice(), 2, 4, false);
        let sorted = |cpuid: &CpuId| {
            let mut entries = cpuid.as_slice().to_vec();
            entries.sort_by_key(|e| (e.function, e.index));
            entries
        };
        assert_eq!(sorted(&once), sorted(&twice));
    }
}

#[test]
fn nothing_to_start_from_is_an_error() {
    let mut cpuid = CpuId::from_entries(&[]).unwrap();
    let vcpu = Vcpu {
        topology: VcpuTopology {
            index: 0,
            count: 1,
            smt: false,
        },
        has_tsc_deadline: true,
        host_brand: "",
    };
    assert_eq!(normalise(&mut cpuid, &vcpu), Err(CpuidError::NoLeaf(0)));
}
