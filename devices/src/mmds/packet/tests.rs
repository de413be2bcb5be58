use super::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const GUEST: Peer = Peer {
    mac: [2, 0, 0, 0, 0, 1],
    ip: Ipv4Addr::new(172, 16, 0, 2),
    port: 0x1234,
};

fn frame(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// What a Linux guest sends first: a SYN with five options.
fn syn() -> Vec<u8> {
    frame(
        "060123456701 020000000001 0800
             4500003c 1c464000 4006 beef ac100002 a9fea9fe
             12340050 01020304 00000000 a002faf0 0000 0000
             020405b4 0402080a 12345678 00000000 01030307",
    )
}

#[test]
fn frames_for_the_service_are_told_from_all_others() {
    let other = Ipv4Addr::new(169, 254, 1, 1);
    let arp = frame(
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001
             020000000001 ac100002 000000000000 a9fea9fe",
    );
    assert_eq!(Kind::of(&arp, ADDRESS), Some(Kind::Arp));
    assert_eq!(Kind::of(&arp, other), None);
    assert_eq!(Kind::of(&arp[..41], ADDRESS), None);
    assert_eq!(Kind::of(&syn()[..START_LEN], ADDRESS), Some(Kind::Ip));
    assert_eq!(Kind::of(&syn(), other), None);
    assert_eq!(Kind::of(&syn()[..33], ADDRESS), None);
    let mut tagged = syn();
    tagged.splice(12..12, [0x81, 0, 0, 1]);
    assert_eq!(Kind::of(&tagged, ADDRESS), None);
    let mut sixth = syn();
    sixth[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(Kind::of(&sixth, ADDRESS), None);
}

#[test]
fn who_asks_is_found_and_answered() {
    let mut arp = frame(
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001
             020000000001 ac100002 000000000000 a9fea9fe",
    );
    let asker = parse_arp(&arp).unwrap();
    assert_eq!((asker.mac, asker.ip), (GUEST.mac, GUEST.ip));
    let mut answer = [0xee; MAX_ANSWER];
    let len = write_arp(&asker, ADDRESS, &mut answer);
    let wanted = frame(
        "020000000001 060123456701 0806 0001 0800 06 04 0002
             060123456701 a9fea9fe 020000000001 ac100002",
    );
    assert_eq!(answer[..len], wanted);
    arp[21] = 2;
    assert_eq!(parse_arp(&arp), Err(Odd::Unknown));
    assert_eq!(parse_arp(&arp[..30]), Err(Odd::Unknown));
    assert_eq!(parse_arp(&arp[..20]), Err(Odd::Malformed));
}

#[test]
fn a_segment_is_found_with_its_options() {
    let frame = syn();
    let segment = parse_segment(&frame, frame.len()).unwrap();
    let wanted = Segment {
        from: GUEST,
        port: 80,
        sequence: 0x0102_0304,
        acknowledgement: 0,
        flags: flags::SYN,
        window: 0xfaf0,
        max_segment: Some(1460),
        data: &[],
        data_len: 0,
    };
    assert_eq!(segment, wanted);
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let is_odd = |at: usize, byte: u8| {
        let mut frame = syn();
        frame[at] = byte;
        parse_segment(&frame, frame.len()) == Err(Odd::Malformed)
    };
    assert!(is_odd(14, 0x65), "version");
    assert!(is_odd(14, 0x44), "short header");
    assert!(is_odd(17, 0x3d), "longer than the frame");
    assert!(is_odd(17, 0x3b), "shorter than its headers");
    assert!(is_odd(20, 0x20), "more parts follow");
    assert!(is_odd(21, 1), "not the first part");
    assert!(is_odd(46, 0x42), "TCP header too short");
    assert!(is_odd(46, 0xf2), "TCP header too long");
    let mut other = syn();
    other[23] = 17;
    assert_eq!(parse_segment(&other, other.len()), Err(Odd::Unknown));
    for len in 0..54 {
        assert!(parse_segment(&syn()[..len], len).is_err(), "{len}");
    }
}

#[test]
fn data_ends_with_the_packet_or_goes_on_unseen() {
    let mut frame = syn();
    frame[17] += 3;
    frame.extend(b"abc padding");
    let segment = parse_segment(&frame, frame.len()).unwrap();
    assert_eq!((segment.data, segment.data_len), (&b"abc"[..], 3));
    frame[16] = 0x40;
    let segment = parse_segment(&frame, 65000).unwrap();
    assert_eq!(segment.data, b"abc padding");
    assert_eq!(segment.data_len, 0x4003);
}

#[test]
fn odd_options_say_nothing_and_end() {
    assert_eq!(max_segment(&[1, 1, 2, 4, 2, 0]), Some(512));
    for odd in [
        &[2, 4, 1][..],
        &[3, 0, 2, 4, 2, 0],
        &[3, 1],
        &[3],
        &[3, 9, 1],
        &[0, 2, 4, 2, 0],
    ] {
        assert_eq!(max_segment(odd), None, "{odd:?}");
    }
}

#[test]
fn a_segment_is_written_with_its_sums() {
    for data in [&b""[..], b"a", b"abcd", &[0xff; MAX_SEGMENT + 1]] {
        let max_segment = data.is_empty().then_some(1460);
        let segment = Outgoing {
            to: GUEST,
            port: 80,
            sequence: 0xffff_ffff,
            acknowledgement: 7,
            flags: flags::ACK,
            window: 2500,
            max_segment,
            data,
        };
        let mut answer = [0xee; MAX_ANSWER];
        let len = write_segment(&segment, ADDRESS, &mut answer);
        let answer = &answer[..len];
        assert_eq!(answer[..14], frame("020000000001 060123456701 0800"));
        assert_eq!(answer[22], 1, "one hop");
        // A sum over what has its sum in it is nothing (RFC 1071 §1).
        assert_eq!(checksum([&answer[14..34]]), [0, 0]);
        let tcp_len = u16::try_from(len - 34).unwrap().to_be_bytes();
        let sum = checksum([&answer[26..34], &[0, 6], &tcp_len, &answer[34..]]);
        assert_eq!(sum, [0, 0]);
        let read = parse_segment(answer, len).unwrap();
        assert_eq!((read.sequence, read.acknowledgement), (0xffff_ffff, 7));
        assert_eq!(read.data, &data[..data.len().min(MAX_SEGMENT)]);
        let has_option = answer[46] == 0x60 && answer[54..58] == [2, 4, 5, 0xb4];
        assert_eq!(has_option, max_segment.is_some());
    }
}
