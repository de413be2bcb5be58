//! `/console`.

use devices::virtio::console::Console;
use vm_config::ConsoleConfig;

use super::{BEFORE_START, Command, CommandError};
use crate::configuration::Attachment;
use crate::{Lifecycle, Vm};

/// `PUT /console`.
pub struct PutConsole(pub ConsoleConfig);

impl Command for PutConsole {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let device = Console::open(&self.0)?;
        vm.config.console = Some(Attachment::new(self.0, device));
        Ok(())
    }
}
