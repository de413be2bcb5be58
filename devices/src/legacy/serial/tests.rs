//! What a driver and a terminal see of the port.

use super::*;
use crate::testing::{FakeIrq, FakeSink};

fn port() -> (Serial, FakeIrq, FakeSink) {
    let (irq, sink) = (FakeIrq::default(), FakeSink::default());
    let serial = Serial::new(Box::new(irq.clone()), Box::new(sink.clone())).unwrap();
    (serial, irq, sink)
}

fn read(serial: &Serial, offset: u8) -> u8 {
    let mut byte = [0xee];
    serial.read(offset.into(), &mut byte);
    byte[0]
}

fn write(serial: &Serial, offset: u8, value: u8) {
    serial.write(offset.into(), &[value]);
}

#[test]
fn output_reaches_the_sink_byte_by_byte() {
    let (serial, irq, sink) = port();
    for byte in b"hello" {
        assert_eq!(read(&serial, LINE_STATUS), LSR_EMPTY);
        write(&serial, DATA, *byte);
    }
    assert_eq!(sink.take(), b"hello");
    assert_eq!(irq.take(), 0);
}

#[test]
fn sink_that_refuses_is_counted_and_the_guest_goes_on() {
    let (serial, _irq, sink) = port();
    sink.refuse();
    write(&serial, DATA, b'x');
    assert_eq!(serial.metrics().error_count.get(), 1);
    assert_eq!(serial.written().tail, b"x");
    assert_eq!(read(&serial, LINE_STATUS), LSR_EMPTY);
}

#[test]
fn output_over_the_limit_is_dropped_and_counted_and_the_guest_goes_on() {
    let (serial, irq, sink) = port();
    let serial = serial.with_limit(Some(TokenBucket {
        size: 4,
        one_time_burst: Some(2),
        refill_time: 3_600_000,
    }));
    write(&serial, INTERRUPT_ENABLE, IER_EMPTY);
    for byte in b"hello, world" {
        write(&serial, DATA, *byte);
    }
    assert_eq!(sink.take(), b"hello,");
    assert_eq!(serial.written().tail, b"hello, world");
    let metrics = serial.metrics();
    assert_eq!(metrics.rate_limiter_dropped_bytes.get(), 6);
    assert_eq!(
        (metrics.write_count.get(), metrics.error_count.get()),
        (12, 0)
    );
    // Each byte is sent as far as the guest can tell.
    assert_eq!(irq.take(), 13);
    assert_eq!(read(&serial, LINE_STATUS), LSR_EMPTY);
}

#[test]
fn every_byte_sent_by_interrupt_brings_the_next_interrupt() {
    let (serial, irq, _sink) = port();
    write(&serial, INTERRUPT_ENABLE, IER_EMPTY);
    assert_eq!(irq.take(), 1);
    for _ in 0..3 {
        assert_eq!(read(&serial, INTERRUPT_ID), IIR_EMPTY);
        assert_eq!(read(&serial, INTERRUPT_ID), IIR_NONE);
        write(&serial, DATA, b'x');
        assert_eq!(irq.take(), 1);
    }
}

#[test]
fn input_interrupts_until_all_of_it_is_read() {
    let (serial, irq, _sink) = port();
    write(&serial, INTERRUPT_ENABLE, IER_RECEIVED);
    assert_eq!(serial.receive(b"ab"), 2);
    assert_eq!(irq.take(), 1);
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_RECEIVED);
    assert_eq!(read(&serial, DATA), b'a');
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_RECEIVED);
    assert_eq!(read(&serial, LINE_STATUS), LSR_EMPTY | LSR_DATA_READY);
    assert_eq!(read(&serial, DATA), b'b');
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_NONE);
    serial.receive(b"c");
    assert_eq!(irq.take(), 1);
}

#[test]
fn input_that_came_while_masked_interrupts_when_unmasked() {
    let (serial, irq, _sink) = port();
    serial.receive(b"a");
    assert_eq!(irq.take(), 0);
    write(&serial, INTERRUPT_ENABLE, IER_RECEIVED);
    assert_eq!(irq.take(), 1);
}

#[test]
fn input_goes_before_output_and_neither_is_forgotten() {
    let (serial, _irq, _sink) = port();
    write(&serial, INTERRUPT_ENABLE, IER_RECEIVED | IER_EMPTY);
    serial.receive(b"a");
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_RECEIVED);
    assert_eq!(read(&serial, DATA), b'a');
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_EMPTY);
}

#[test]
fn port_takes_no_more_input_than_it_holds() {
    let (serial, _irq, _sink) = port();
    assert_eq!(serial.receive(&[7; 100]), RECEIVE_FIFO);
    assert_eq!(serial.receive(&[7; 100]), 0);
}

#[test]
fn looped_port_hears_itself_and_nothing_else() {
    let (serial, _irq, sink) = port();
    write(&serial, MODEM_CONTROL, MCR_LOOP | MCR_OUT2 | MCR_RTS);
    assert_eq!(read(&serial, MODEM_STATUS), MSR_DCD | MSR_CTS);
    for _ in 0..100 {
        write(&serial, DATA, b'x');
    }
    assert_eq!(serial.receive(b"y"), 0);
    assert_eq!(sink.take(), b"");
    assert_eq!(read(&serial, DATA), b'x');
    write(&serial, FIFO_CONTROL, FCR_CLEAR_RECEIVE);
    assert_eq!(read(&serial, LINE_STATUS), LSR_EMPTY);
}

#[test]
fn fifo_shows_once_enabled() {
    let (serial, _irq, _sink) = port();
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_NONE);
    write(&serial, FIFO_CONTROL, FCR_ENABLE);
    assert_eq!(read(&serial, INTERRUPT_ID), IIR_NONE | IIR_FIFO_ENABLED);
}

#[test]
fn latch_hides_data_and_interrupt_enable() {
    let (serial, _irq, sink) = port();
    write(&serial, LINE_CONTROL, LCR_DLAB);
    write(&serial, DATA, 1);
    write(&serial, INTERRUPT_ENABLE, 2);
    assert_eq!(
        (read(&serial, DATA), read(&serial, INTERRUPT_ENABLE)),
        (1, 2)
    );
    write(&serial, LINE_CONTROL, 3);
    assert_eq!(read(&serial, INTERRUPT_ENABLE), 0);
    assert_eq!(sink.take(), b"");
}

#[test]
fn odd_widths_and_offsets_are_tolerated() {
    let (serial, _irq, sink) = port();
    for len in [0, 2, 4, 8] {
        let mut data = vec![0xee; len];
        serial.read(0, &mut data);
        assert_eq!(data, vec![0; len]);
        serial.write(0, &data);
    }
    let mut byte = [0xee];
    serial.read(u64::MAX, &mut byte);
    serial.write(u64::MAX, &[1]);
    serial.write(200, &[1]);
    assert_eq!(byte, [0]);
    assert_eq!(sink.take(), b"");
}

#[test]
fn saved_port_goes_on_with_its_input_and_interrupt() {
    let (serial, _irq, _sink) = port();
    write(&serial, INTERRUPT_ENABLE, IER_RECEIVED);
    serial.receive(b"a");
    let text = serde_json::to_string(&serial.state()).unwrap();
    let (copy, irq, _sink) = port();
    copy.restore(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(irq.take(), 1);
    assert_eq!(read(&copy, DATA), b'a');
    let mut hostile = serial.state();
    hostile.received = vec![0; RECEIVE_FIFO + 1].into();
    assert_eq!(copy.restore(hostile), Err(RestoreError));
}
