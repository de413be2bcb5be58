use super::*;

const START: u64 = 0x40_0000_0000;

/// Answers with the low byte of each offset; records writes.
#[derive(Default)]
struct Echo {
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
    window: Mutex<Option<u64>>,
}

impl Echo {
    fn move_to(&self, place: u64) {
        *self.window.lock().unwrap() = Some(START + place * BAR_LEN);
    }
}

impl Function for Echo {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.read_bar(offset.into(), data);
    }
    fn write_config(&self, offset: u16, data: &[u8]) {
        self.write_bar(offset.into(), data);
    }
    fn window(&self) -> Option<u64> {
        *self.window.lock().unwrap()
    }
    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = at.to_le_bytes()[0];
        }
    }
    fn write_bar(&self, offset: u64, data: &[u8]) {
        self.writes.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn bus() -> (Arc<PciBus>, Arc<Echo>) {
    let (bus, echo) = (Arc::new(PciBus::default()), Arc::new(Echo::default()));
    bus.insert(3, echo.clone()).unwrap();
    echo.move_to(3);
    (bus, echo)
}

fn read<const N: usize>(registers: &dyn Registers, offset: u64) -> [u8; N] {
    let mut data = [0; N];
    registers.read(offset, &mut data);
    data
}

#[test]
fn the_host_bridge_is_the_first() {
    let memory = ConfigMemory(bus().0);
    assert_eq!(read(&memory, 0), [0x86, 0x80, 0x57, 0x0d]);
    assert_eq!(read(&memory, 0xb), [6]);
}

#[test]
fn both_ways_lead_to_the_same_function_in_every_width() {
    let (bus, echo) = bus();
    let (memory, ports) = (ConfigMemory(bus.clone()), ConfigPorts::new(bus));
    ports.write(0, &0x8000_1844_u32.to_le_bytes());
    assert_eq!(read(&ports, 0), 0x8000_1844_u32.to_le_bytes());
    assert_eq!(read(&ports, 4), [0x44, 0x45, 0x46, 0x47]);
    assert_eq!(read(&ports, 6), [0x46, 0x47]);
    assert_eq!(read(&ports, 7), [0x47]);
    assert_eq!(read(&memory, 0x1_8044), [0x44, 0x45, 0x46, 0x47]);
    assert_eq!(read(&memory, 0x1_8046), [0x46]);
    ports.write(5, &[1, 2]);
    memory.write(0x1_8044, &[3]);
    assert_eq!(
        *echo.writes.lock().unwrap(),
        [(0x45, vec![1, 2]), (0x44, vec![3])]
    );
}

#[test]
fn nobody_home_reads_as_all_ones() {
    let (bus, echo) = bus();
    let (memory, ports) = (ConfigMemory(bus.clone()), ConfigPorts::new(bus.clone()));
    // No device, another function, across the end of one, beyond the bus.
    for offset in [0x2_0000, 0x1_9000, 0x1_8ffe, ECAM_LEN, u64::MAX] {
        assert_eq!(read(&memory, offset), [0xff; 4], "{offset:#x}");
        memory.write(offset, &[0; 4]);
    }
    // Closed, another bus, another function, no device.
    for address in [0x0000_1800_u32, 0x8001_1800, 0x8000_1900, 0x8000_2000] {
        ports.write(0, &address.to_le_bytes());
        assert_eq!(read(&ports, 4), [0xff; 4], "{address:#x}");
        ports.write(4, &[0; 4]);
    }
    ports.write(0, &0x8000_1800_u32.to_le_bytes());
    assert_eq!(read(&ports, 6), [0xff; 4], "across the end");
    let windows = BarWindows::new(bus, START);
    for offset in [0, BAR_LEN, 3 * BAR_LEN - 1, 4 * BAR_LEN - 1, u64::MAX] {
        assert_eq!(read(&windows, offset), [0xff; 2], "{offset:#x}");
        windows.write(offset, &[0; 2]);
    }
    assert!(echo.writes.lock().unwrap().is_empty());
}

#[test]
fn the_address_port_takes_words_only() {
    let ports = ConfigPorts::new(bus().0);
    ports.write(0, &u32::MAX.to_le_bytes());
    assert_eq!(read(&ports, 0), 0x80ff_fffc_u32.to_le_bytes());
    // How Linux probes for mechanism #1 (arch/x86/pci/direct.c).
    ports.write(3, &[1]);
    ports.write(0, &0x8000_0000_u32.to_le_bytes());
    ports.write(0, &[1, 2]);
    assert_eq!(read(&ports, 0), 0x8000_0000_u32.to_le_bytes());
    assert_eq!(read(&ports, 0), [0xff]);
}

#[test]
fn windows_belong_to_slots() {
    let (bus, echo) = bus();
    let windows = BarWindows::new(bus, START);
    assert_eq!(read(&windows, 3 * BAR_LEN + 5), [5, 6]);
    windows.write(3 * BAR_LEN + 0x6000, &[1]);
    assert_eq!(*echo.writes.lock().unwrap(), [(0x6000, vec![1])]);
}

#[test]
fn a_window_is_found_where_it_was_moved_and_the_assigned_one_goes_first() {
    let (bus, echo) = bus();
    let other = Arc::new(Echo::default());
    bus.insert(5, other.clone()).unwrap();
    let windows = BarWindows::new(bus, START);
    assert_eq!(read(&windows, 5 * BAR_LEN), [0xff], "decoding is off");
    other.move_to(0);
    windows.write(0x10, &[1]);
    assert_eq!(*other.writes.lock().unwrap(), [(0x10, vec![1])]);
    other.move_to(3);
    windows.write(3 * BAR_LEN, &[2]);
    assert_eq!(*echo.writes.lock().unwrap(), [(0, vec![2])]);
    echo.move_to(1000);
    windows.write(3 * BAR_LEN + 1, &[3]);
    assert_eq!(other.writes.lock().unwrap().len(), 2);
}

#[test]
fn a_removed_function_is_gone_and_its_slot_free() {
    let (bus, echo) = bus();
    let memory = ConfigMemory(bus.clone());
    assert!(bus.remove(3).is_some());
    assert!(bus.remove(3).is_none() && bus.remove(32).is_none());
    assert_eq!(read(&memory, 0x1_8000), [0xff; 4]);
    assert_eq!(Arc::strong_count(&echo), 1);
    assert_eq!(bus.insert(3, echo), Ok(()));
}

#[test]
fn the_window_of_a_function_that_was_pulled_out_reads_as_zeros_until_its_slot_is_taken() {
    let (bus, echo) = bus();
    echo.move_to(9);
    bus.pull_out(3);
    let windows = BarWindows::new(bus.clone(), START);
    assert_eq!(read(&windows, 9 * BAR_LEN + 20), [0]);
    assert_eq!(read(&windows, 3 * BAR_LEN + 20), [0xff]);
    assert_eq!(read(&ConfigMemory(bus.clone()), 0x1_8000), [0xff; 4]);
    let other = Arc::new(Echo::default());
    bus.insert(3, other).unwrap();
    assert_eq!(read(&windows, 9 * BAR_LEN + 20), [0xff]);
}

#[test]
fn a_slot_takes_one_function() {
    let (bus, echo) = bus();
    for device in [0, 3, 32, 255] {
        assert_eq!(bus.insert(device, echo.clone()), Err(SlotError(device)));
    }
    assert_eq!(bus.insert(31, echo), Ok(()));
}
