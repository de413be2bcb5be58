//! The kernel command line: words `key=value`, and the devices it announces.

/// A command line, split at spaces.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a> {
    bytes: &'a [u8],
}

/// A virtio-mmio device announced as `virtio_mmio.device=<size>@<address>:<gsi>`
/// (Linux `Documentation/admin-guide/kernel-parameters.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncedDevice {
    /// Address of the register window.
    pub address: u64,
    /// Interrupt controller input.
    pub gsi: u32,
}

impl<'a> CommandLine<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The whole text; what is not UTF-8 is cut off.
    pub fn text(self) -> &'a str {
        match core::str::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&self.bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }

    /// Whether the bare word is there.
    pub fn has(self, word: &str) -> bool {
        self.text().split(' ').any(|candidate| candidate == word)
    }

    /// Value of the first `key=value`.
    pub fn value(self, key: &str) -> Option<&'a str> {
        self.values(key).next()
    }

    /// Value of the first `key=value` as a number, decimal or 0x-hexadecimal.
    pub fn number(self, key: &str) -> Option<u64> {
        number(self.value(key)?)
    }

    /// The announced virtio-mmio devices, in order.
    pub fn devices(self) -> impl Iterator<Item = AnnouncedDevice> {
        self.values("virtio_mmio.device").filter_map(|value| {
            let (_size, place) = value.split_once('@')?;
            let mut fields = place.split(':');
            let address = number(fields.next()?)?;
            let gsi = u32::try_from(number(fields.next()?)?).ok()?;
            Some(AnnouncedDevice { address, gsi })
        })
    }

    fn values(self, key: &str) -> impl Iterator<Item = &'a str> {
        self.text()
            .split(' ')
            .filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
