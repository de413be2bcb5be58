//! `/entropy`.

use vm_config::Entropy;

use super::{BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `PUT /entropy`.
pub struct PutEntropy(pub Entropy);

impl Command for PutEntropy {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        vm.config.entropy = Some(self.0);
        Ok(())
    }
}
