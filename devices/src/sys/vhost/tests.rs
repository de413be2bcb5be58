use super::*;

const FAR: u64 = 1 << 32;

/// Two regions whose guest addresses join: 64 KiB each.
fn memory() -> GuestMemory {
    let ranges = [0, 0x1_0000, FAR].map(|start| (GuestAddress(start), 0x1_0000));
    GuestMemory::from_ranges(&ranges).unwrap()
}

fn addresses(memory: &GuestMemory, index: usize, state: QueueState) -> io::Result<RingAddresses> {
    let event = EventFd::new(0).unwrap();
    let ring = Ring {
        index,
        state,
        kick: &event,
        call: &event,
        error: &event,
        tap: crate::sys::event::lend(&event),
    };
    RingAddresses::of(memory, &ring)
}

fn state(descriptor_table: u64, available_ring: u64, used_ring: u64) -> QueueState {
    QueueState {
        size: 256,
        is_ready: true,
        descriptor_table,
        available_ring,
        used_ring,
        ..QueueState::default()
    }
}

#[test]
fn numbers_are_those_of_the_kernel() {
    // As the C compiler has them from `linux/vhost.h`.
    let numbers = [
        (GET_FEATURES.0, 0x8008_af00),
        (SET_FEATURES.0, 0x4008_af00),
        (SET_OWNER.0, 0xaf01),
        (SET_MEM_TABLE.0, 0x4008_af03),
        (SET_VRING_NUM.0, 0x4008_af10),
        (SET_VRING_ADDR.0, 0x4028_af11),
        (SET_VRING_BASE.0, 0x4008_af12),
        (GET_VRING_BASE.0, 0xc008_af12),
        (SET_VRING_KICK.0, 0x4008_af20),
        (SET_VRING_CALL.0, 0x4008_af21),
        (SET_VRING_ERR.0, 0x4008_af22),
        (NET_SET_BACKEND.0, 0x4008_af30),
    ];
    for (ours, theirs) in numbers {
        assert_eq!(ours, theirs, "{ours:#x} {theirs:#x}");
    }
}

#[test]
fn the_table_holds_every_region() {
    let memory = memory();
    let table = Table::of(&memory).unwrap();
    assert_eq!(table.header.count, 3);
    for (told, region) in table.regions.iter().zip(memory.iter()) {
        assert_eq!(told.guest_address, region.start_addr().0);
        assert_eq!(told.len, region.len());
        assert_eq!(told.our_address, region.mapping().as_ptr().addr() as u64);
    }
    assert_eq!(table.regions[3].len, 0);
}

#[test]
fn more_regions_than_the_kernel_takes_are_refused() {
    let ranges: Vec<_> = (0..=MAX_REGIONS)
        .map(|index| (GuestAddress(index as u64 * 0x2000), 0x1000))
        .collect();
    assert!(Table::of(&GuestMemory::from_ranges(&ranges[1..]).unwrap()).is_ok());
    assert!(Table::of(&GuestMemory::from_ranges(&ranges).unwrap()).is_err());
}

#[test]
fn rings_are_told_by_their_place_in_this_process() {
    let memory = memory();
    let found = addresses(&memory, 1, state(0x1000, FAR, FAR + 0x1000)).unwrap();
    let ours = |address| memory.get_host_address(GuestAddress(address)).unwrap();
    assert_eq!(found.index, 1);
    assert_eq!(found.descriptor_table, ours(0x1000).addr() as u64);
    assert_eq!(found.available_ring, ours(FAR).addr() as u64);
    assert_eq!(found.used_ring, ours(FAR + 0x1000).addr() as u64);
}

#[test]
fn a_ring_that_leaves_its_region_is_refused_to_the_last_byte() {
    let memory = memory();
    let end = FAR + 0x1_0000;
    let (descriptors, available, used) = (16 * 256, 6 + 2 * 256, 6 + 8 * 256);
    assert!(
        addresses(
            &memory,
            0,
            state(end - descriptors, end - available, end - used)
        )
        .is_ok()
    );
    for wrong in [
        state(end - descriptors + 16, FAR, FAR),
        state(FAR, end - available + 2, FAR),
        state(FAR, FAR, end - used + 4),
        // In guest memory, and in two mappings of ours.
        state(0xf800, FAR, FAR),
        state(FAR, 0x1_0000 - 2, FAR),
        state(FAR, FAR, 0x1_0000 - 4),
    ] {
        assert!(addresses(&memory, 0, wrong).is_err(), "{wrong:?}");
    }
    assert!(addresses(&memory, RINGS, state(FAR, FAR, FAR)).is_err());
}

#[test]
fn a_file_that_is_no_back_end_is_refused() {
    assert!(Vhost::open(Path::new("/dev/null")).is_err());
}
