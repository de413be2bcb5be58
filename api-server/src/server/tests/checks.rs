//! The order of checks, the paths and the words, as tables.

use super::*;

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const AFTER: &str = "The requested operation is not supported after starting the microVM.";
const JSON: &str = "An error occurred when deserializing the json body of a request: ";

/// Verb, path, body, and how the refusal begins.
type Row<'a> = (&'a str, &'a str, &'a str, &'a str);

fn refuses(state: Lifecycle, rows: &[Row<'_>]) {
    let server = TestServer::in_state(state);
    for (verb, path, body, expected) in rows {
        let (status, fault) = server.fault(verb, path, body);
        assert_eq!(status, 400, "{verb} {path} {body}");
        assert!(fault.starts_with(expected), "{verb} {path} {body}: {fault}");
    }
}

fn accepts(state: Lifecycle, rows: &[(&str, &str, &str)]) {
    let server = TestServer::in_state(state);
    for (verb, path, body) in rows {
        let expected = if *verb == "GET" { 200 } else { 204 };
        let (status, fault) = server.fault(verb, path, body);
        assert_eq!(status, expected, "{verb} {path} {body}: {fault}");
    }
}

#[test]
fn bodies_are_checked_before_paths() {
    refuses(
        Lifecycle::NotStarted,
        &[
            ("GET", "/version", "x", "GET request cannot have a body."),
            ("GET", "/nowhere", "x", "GET request cannot have a body."),
            ("DELETE", "/drives/a", "x", "Empty Delete request."),
            ("PUT", "/nowhere", "", "Empty PUT request."),
            ("PUT", "/actions", "", "Empty PUT request."),
            ("PATCH", "/nowhere", "", "Empty PATCH request."),
            ("PATCH", "/machine-config", "{}", "Empty PATCH request."),
        ],
    );
}

#[test]
fn unknown_paths_are_told_with_their_first_token() {
    refuses(
        Lifecycle::NotStarted,
        &[
            (
                "GET",
                "/foo/bar",
                "",
                "Invalid request method and/or path: GET foo.",
            ),
            (
                "PUT",
                "/version",
                "{}",
                "Invalid request method and/or path: PUT version.",
            ),
            (
                "DELETE",
                "/",
                "",
                "Invalid request method and/or path: DELETE .",
            ),
            (
                "GET",
                "/version?x=1",
                "",
                "Invalid request method and/or path: GET version?x=1.",
            ),
            (
                "GET",
                "/%76ersion",
                "",
                "Invalid request method and/or path: GET %76ersion.",
            ),
            (
                "GET",
                "/vm",
                "",
                "Invalid request method and/or path: GET vm.",
            ),
            (
                "GET",
                "/vm/foo",
                "",
                "Invalid request method and/or path: GET vm.",
            ),
            (
                "PUT",
                "/hotplug/cpu",
                "{}",
                "Invalid request method and/or path: PUT hotplug.",
            ),
            (
                "GET",
                "/drives/a",
                "",
                "Invalid request method and/or path: GET drives.",
            ),
        ],
    );
}

#[test]
fn names_in_paths_are_checked_before_bodies_are_read() {
    let invalid = "API Resource IDs can only contain alphanumeric characters and underscores.";
    let empty = "The ID cannot be empty.";
    refuses(
        Lifecycle::NotStarted,
        &[
            ("PUT", "/drives", "{", empty),
            ("PUT", "/drives//a", "{", empty),
            ("PUT", "/drives/a-b", "{", invalid),
            ("PUT", "/network-interfaces/a.b", "{", invalid),
            ("DELETE", "/drives/a-b", "", invalid),
            ("PATCH", "/pmem", "{", empty),
        ],
    );
}

#[test]
fn json_mistakes_are_told_in_the_words_of_the_decoder() {
    let server = TestServer::in_state(Lifecycle::Running);
    for (path, body, words) in [
        (
            "/machine-config",
            r#"{"vcpu_count":1"#,
            "EOF while parsing an object at line 1 column 15.",
        ),
        ("/machine-config", "x", "expected value at line 1 column 1."),
        (
            "/machine-config",
            "[1,128] x",
            "trailing characters at line 1 column 9.",
        ),
        (
            "/machine-config",
            r#"{"mem_size_mib":1}"#,
            "missing field `vcpu_count` at line 1 column 18.",
        ),
        (
            "/machine-config",
            r#"{"ht_enabled":1}"#,
            "unknown field `ht_enabled`, expected one of `vcpu_count`, ",
        ),
        (
            "/machine-config",
            r#"{"smt":true,"smt":true}"#,
            "duplicate field `smt` at line 1 column 17.",
        ),
        (
            "/machine-config",
            r#"{"vcpu_count":256}"#,
            "invalid value: integer `256`, expected u8 at ",
        ),
        (
            "/machine-config",
            r#"{"vcpu_count":"1"}"#,
            "invalid type: string \"1\", expected u8 at ",
        ),
        (
            "/machine-config",
            r#"{"mem_size_mib":1.5}"#,
            "invalid type: floating point `1.5`, expected usize",
        ),
        (
            "/machine-config",
            r#"{"smt":null}"#,
            "invalid type: null, expected a boolean",
        ),
        (
            "/machine-config",
            r#"{"cpu_template":"T9"}"#,
            "unknown variant `T9`, expected one of `C3`, `T2`, ",
        ),
        (
            "/cpu-config",
            r#"{"reg_modifiers":[]}"#,
            "unknown field `reg_modifiers`, expected one of `kvm_capabilities`, ",
        ),
        (
            "/cpu-config",
            r#"{"msr_modifiers":[{"addr":"266","bitmap":"0b1"}]}"#,
            "No supported number system prefix found in value [266]",
        ),
        (
            "/actions",
            r#"{"action_type":"InstanceHalt"}"#,
            "unknown variant `InstanceHalt`, expected one of ",
        ),
        (
            "/actions",
            r#"{"payload":1}"#,
            "unknown field `payload`, expected `action_type` at ",
        ),
        (
            "/network-interfaces/a",
            r#"{"guest_mac":"1:2"}"#,
            "The provided MAC address is invalid. at line 1 ",
        ),
        (
            "/drives/a",
            r#"{"drive_id":"a"}"#,
            "missing field `is_root_device` at line 1 column 16.",
        ),
        (
            "/logger",
            r#"{"level":"loud"}"#,
            "Invalid LevelFilter at line 1 column 16.",
        ),
        (
            "/vm",
            r#"{"state":"Off"}"#,
            "unknown variant `Off`, expected `Paused` or `Resumed` at ",
        ),
    ] {
        let verb = if path == "/vm" { "PATCH" } else { "PUT" };
        let (status, fault) = server.fault(verb, path, body);
        assert_eq!(status, 400, "{path} {body}");
        let decoder = fault
            .strip_prefix(JSON)
            .unwrap_or_else(|| panic!("{path} {body}: {fault}"));
        assert!(decoder.starts_with(words), "{path} {body}: {fault}");
    }
}

#[test]
fn the_name_in_the_body_must_be_the_one_in_the_path() {
    refuses(
        Lifecycle::Running,
        &[
            (
                "PUT",
                "/drives/a",
                r#"{"drive_id":"b","is_root_device":false}"#,
                "The id from the path does not match the id from the body!",
            ),
            (
                "PUT",
                "/pmem/a",
                r#"{"id":"b","path_on_host":"p"}"#,
                "The id from the path does not match the id from the body!",
            ),
            (
                "PUT",
                "/network-interfaces/a",
                r#"{"iface_id":"b","host_dev_name":"t"}"#,
                "The id from the path [a] does not match the id from the body [b]!",
            ),
        ],
    );
}

#[test]
fn requests_too_early_or_too_late_are_refused() {
    refuses(
        Lifecycle::NotStarted,
        &[
            (
                "PUT",
                "/actions",
                r#"{"action_type":"FlushMetrics"}"#,
                BEFORE,
            ),
            (
                "PUT",
                "/actions",
                r#"{"action_type":"SendCtrlAltDel"}"#,
                BEFORE,
            ),
            ("PATCH", "/vm", r#"{"state":"Paused"}"#, BEFORE),
            ("PATCH", "/pmem/a", r#"{"id":"a"}"#, BEFORE),
            ("GET", "/hotplug/memory", "", BEFORE),
            (
                "PATCH",
                "/hotplug/memory",
                r#"{"requested_size_mib":2}"#,
                BEFORE,
            ),
            ("PATCH", "/balloon/x", r#"{"amount_mib":1}"#, BEFORE),
            ("GET", "/balloon/statistics", "", BEFORE),
            ("PATCH", "/balloon/statistics", "[1]", BEFORE),
            ("PATCH", "/balloon/hinting/start", "", BEFORE),
            ("GET", "/balloon/hinting/status", "", BEFORE),
        ],
    );
    refuses(
        Lifecycle::Running,
        &[
            ("PUT", "/machine-config", "[1,128]", AFTER),
            ("PATCH", "/machine-config", r#"{"smt":false}"#, AFTER),
            ("PUT", "/boot-source", r#"{"kernel_image_path":"k"}"#, AFTER),
            ("PUT", "/logger", "{}", AFTER),
            ("PUT", "/serial", "{}", AFTER),
            ("PUT", "/balloon", "[1,true]", AFTER),
            ("PUT", "/hotplug/memory", r#"{"total_size_mib":128}"#, AFTER),
            (
                "PUT",
                "/actions",
                r#"{"action_type":"InstanceStart"}"#,
                AFTER,
            ),
        ],
    );
}

#[test]
fn good_requests_are_done() {
    accepts(
        Lifecycle::NotStarted,
        &[
            ("GET", "/", ""),
            ("GET", "/version/x", ""),
            ("GET", "/machine-config/foo", ""),
            ("GET", "/vm/config/", ""),
            (
                "PUT",
                "/machine-config/foo",
                r#"{"vcpu_count":1,"mem_size_mib":128,"cpu_template":null}"#,
            ),
            ("PUT", "/machine-config", "[1,128]"),
            ("PUT", "/cpu-config/x", "{}"),
            ("PUT", "/cpu-config", r#"{"kvm_capabilities":["!171"]}"#),
            ("PATCH", "//machine-config", r#"{"smt":false}"#),
            (
                "PUT",
                "/boot-source/x",
                r#"{"kernel_image_path":"k","initrd_path":null}"#,
            ),
            (
                "PUT",
                "/drives/ä_1/x",
                r#"{"drive_id":"ä_1","is_root_device":true,"path_on_host":"p"}"#,
            ),
            (
                "PUT",
                "/network-interfaces/eth0",
                r#"{"iface_id":"eth0","host_dev_name":"t"}"#,
            ),
            (
                "PUT",
                "/serial",
                r#"{"serial_out_path":"p","rate_limiter":null}"#,
            ),
            ("PUT", "/console", r#"{"output_path":"p"}"#),
            ("PUT", "/balloon", "[1,true]"),
            ("PUT", "/actions/x", r#"{"action_type":"InstanceStart"}"#),
        ],
    );
    accepts(
        Lifecycle::Paused,
        &[
            ("PATCH", "/vm/x", r#"{"state":"Resumed"}"#),
            ("PATCH", "/balloon", r#"{"amount_mib":1}"#),
            ("PATCH", "/balloon/hinting/start", ""),
            ("PATCH", "/balloon/hinting/start", r#"{"zebra":1}"#),
            ("PATCH", "/balloon/hinting/stop", "x"),
            ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#),
            ("PUT", "/actions", r#"{"action_type":"SendPowerButton"}"#),
            ("PUT", "/actions", r#"{"action_type":"FlushMetrics"}"#),
        ],
    );
}

#[test]
fn paths_that_begin_well_are_refused_by_their_ends() {
    refuses(
        Lifecycle::NotStarted,
        &[
            ("PUT", "/snapshot", "x", "Missing snapshot operation type."),
            (
                "PUT",
                "/snapshot/x",
                "x",
                "Invalid request method and/or path: PUT /snapshot/x.",
            ),
            ("PUT", "/mmds/x", "x", "Unrecognized PUT request path `x`."),
            (
                "GET",
                "/balloon/x",
                "",
                "Unrecognized GET request path `x`.",
            ),
            (
                "GET",
                "/balloon/hinting",
                "",
                "Unrecognized GET request path `/hinting/`.",
            ),
            (
                "PATCH",
                "/balloon/hinting/x",
                "x",
                "Unrecognized PATCH request path `/hinting/x`.",
            ),
            ("PATCH", "/balloon/hinting/stop", "", BEFORE),
            ("PATCH", "/balloon/hinting/x", "", "Empty PATCH request."),
            ("DELETE", "/pmem/a/x?force=1", "", "Unknown query `force=1`"),
            ("DELETE", "/drives/a?", "", "Unknown query ``"),
            ("PUT", "/drives/a?force=true", "x", "API Resource IDs can"),
        ],
    );
}

#[test]
fn a_drive_can_be_patched_after_the_start() {
    let id = r#"{"drive_id":"a"}"#;
    refuses(Lifecycle::NotStarted, &[("PATCH", "/drives/a", id, BEFORE)]);
    accepts(Lifecycle::Running, &[("PATCH", "/drives/a", id)]);
    accepts(
        Lifecycle::Paused,
        &[(
            "PATCH",
            "/drives/a",
            r#"{"drive_id":"a","path_on_host":"x"}"#,
        )],
    );
    let other = "The id from the path does not match the id from the body!";
    let unknown = format!("{JSON}unknown field `is_read_only`, expected one of `drive_id`,");
    refuses(
        Lifecycle::Running,
        &[
            ("PATCH", "/drives/b", id, other),
            (
                "PATCH",
                "/drives/a",
                r#"{"drive_id":"a","is_read_only":true}"#,
                &unknown,
            ),
        ],
    );
}

#[test]
fn an_interface_can_be_patched_after_the_start() {
    let id = r#"{"iface_id":"a"}"#;
    let path = "/network-interfaces/a";
    refuses(Lifecycle::NotStarted, &[("PATCH", path, id, BEFORE)]);
    let limits =
        r#"{"iface_id":"a","rx_rate_limiter":{"ops":{"size":1,"refill_time":2,"zebra":3}}}"#;
    accepts(
        Lifecycle::Running,
        &[("PATCH", path, id), ("PATCH", path, limits)],
    );
    let other = "The id from the path [b] does not match the id from the body [a]!";
    let unknown = format!("{JSON}unknown field `guest_mac`, expected one of `iface_id`,");
    let mac = r#"{"iface_id":"a","guest_mac":"06:00:00:00:00:01"}"#;
    refuses(
        Lifecycle::Running,
        &[
            ("PATCH", "/network-interfaces/b", id, other),
            ("PATCH", path, mac, &unknown),
        ],
    );
}

#[test]
fn a_cpu_template_is_marked_as_deprecated_even_when_refused() {
    for state in [Lifecycle::NotStarted, Lifecycle::Running] {
        let server = TestServer::in_state(state);
        for (body, is_deprecated) in [
            (
                r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#,
                true,
            ),
            (
                r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":null}"#,
                false,
            ),
        ] {
            let len = body.len();
            let (_, head, _) = server.ask(&format!(
                "PUT /machine-config HTTP/1.1\r\nContent-Length: {len}\r\n\r\n{body}"
            ));
            assert_eq!(
                head.contains("Deprecation: true\r\n"),
                is_deprecated,
                "{body}"
            );
        }
    }
}

#[test]
fn the_microvm_tells_its_name_and_state() {
    let server = TestServer::in_state(Lifecycle::NotStarted);
    let (_, _, body) = server.ask("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        body.unwrap().to_string(),
        r#"{"id":"test-1","state":"Not started","vmm_version":"1.17.0-dev","app_name":"Firecracker"}"#
    );
}
