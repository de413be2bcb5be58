//! Guests and clients that mean harm: the monitor goes on, answers, and stays small.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;

use api_client::Client;
use integration::{TestVm, vm_test};
use serde_json::json;

#[vm_test(kernel = "hello")]
fn a_machine_ends_whatever_is_asked_of_it_meanwhile(vm: &mut TestVm) {
    let socket = vm.path("api.sock");
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut client = Client::connect(&socket).unwrap();
            thread::spawn(move || while client.get("/", None).is_ok() {})
        })
        .collect();
    vm.start();
    vm.expect_pass();
    for client in clients {
        client.join().unwrap();
    }
}
