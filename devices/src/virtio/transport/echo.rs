//! A device for the tests of transports.

use std::sync::{Arc, Mutex};

use crate::metrics::{BalloonMetrics, Group};
use crate::virtio::queue::Queue;
use crate::virtio::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
};

pub(super) const EVENT_IDX: u64 = 1 << 29;

/// Gives every head back, with the length of its writable buffers.
pub(super) struct Echo {
    config: [u8; 6],
    /// Once it runs.
    pub(super) interrupt: Arc<Mutex<Option<Arc<dyn Interrupt>>>>,
    pub(super) fails: bool,
}

struct EchoWorker {
    queues: Vec<Queue>,
    interrupt: Arc<dyn Interrupt>,
}

impl Echo {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            config: [1, 2, 3, 4, 5, 6],
            interrupt: Arc::default(),
            fails: false,
        })
    }
}

impl VirtioDevice for Echo {
    fn traits(&self) -> Traits {
        Traits {
            device_type: 42,
            features: 1 << 32 | EVENT_IDX | 1,
            queue_sizes: vec![16, 8],
        }
    }

    fn counters(&self) -> Arc<dyn Group> {
        Arc::new(BalloonMetrics::new())
    }

    fn config_space(&self) -> &[u8] {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config[offset..offset + data.len()].copy_from_slice(data);
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        if self.fails {
            return Err(ActivateError {
                what: "nothing",
                source: std::io::ErrorKind::Other.into(),
            });
        }
        *self.interrupt.lock().unwrap() = Some(Arc::clone(&with.interrupt));
        Ok(Box::new(EchoWorker {
            queues: with.queues,
            interrupt: with.interrupt,
        }))
    }
}

impl Worker for EchoWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source {
            fd: 0,
            token: Token(0),
            events: vmm_sys_util::epoll::EventSet::IN,
        }]
    }

    fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
        for (index, queue) in (0..).zip(&mut self.queues) {
            let mut chain = queue.new_chain();
            while let Some(done) = queue.pop(&mut chain)? {
                let len = u32::try_from(chain.writable.len()).unwrap();
                queue.give_back(done, len)?;
            }
            if queue.needs_interrupt()? {
                self.interrupt.queue(index);
            }
        }
        Ok(())
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.queues
    }
}
