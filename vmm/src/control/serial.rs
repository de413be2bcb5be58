//! `/serial`.

use vm_config::SerialConfig;

use super::{BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `PUT /serial`.
pub struct PutSerial(pub SerialConfig);

impl Command for PutSerial {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    /// The file is opened at the start.
    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        vm.config.serial = self.0;
        Ok(())
    }
}
