//! Command lines, and what they are taken for.

use super::*;

fn run(line: &str) -> Result<Options, CliError> {
    match parse(line.split_whitespace().map(str::to_owned))? {
        Invocation::Run(options) => Ok(*options),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_argument_means_the_defaults() {
    let options = run("").unwrap();
    assert_eq!(options.api_socket, Some(DEFAULT_SOCKET.into()));
    assert_eq!(options.id, InstanceId::default());
    assert_eq!(options.max_payload, 51200);
    assert_eq!(options.mmds_size_limit, 51200);
}

#[test]
fn metadata_may_be_as_large_as_a_request_unless_said_otherwise() {
    let limit = |line| run(line).unwrap().mmds_size_limit;
    assert_eq!(limit("--http-api-max-payload-size 7"), 7);
    assert_eq!(
        limit("--http-api-max-payload-size 7 --mmds-size-limit 9"),
        9
    );
    let options = run("--metadata /m.json").unwrap();
    assert_eq!(options.metadata, Some("/m.json".into()));
}

#[test]
fn a_template_is_for_printing_only() {
    let parse = |line: &str| parse(line.split_whitespace().map(str::to_owned));
    let printed = parse("--print-cpu-template --cpu-template T2A").unwrap();
    assert!(matches!(printed, Invocation::PrintCpuTemplate(Some(name)) if name == "T2A"));
    let refused = parse("--cpu-template T2A").unwrap_err();
    assert_eq!(refused, CliError::Required("print-cpu-template"));
}

#[test]
fn mistakes_are_told_in_the_promised_words() {
    for (line, message) in [
        (
            "foo",
            "Found argument 'foo' which wasn't expected, or isn't valid in this context.",
        ),
        (
            "--id=x",
            "Found argument 'id=x' which wasn't expected, or isn't valid in this context.",
        ),
        (
            "-x",
            "Found argument '-x' which wasn't expected, or isn't valid in this context.",
        ),
        (
            "--id",
            "The argument 'id' requires a value, but none was supplied.",
        ),
        (
            "--id --no-api",
            "The argument 'id' requires a value, but none was supplied.",
        ),
        (
            "--id a --id b",
            "The argument 'id' was provided more than once.",
        ),
        (
            "--no-api",
            "Argument 'config-file' required, but not found.",
        ),
        (
            "--no-seccomp --seccomp-filter f",
            "Argument 'no-seccomp' cannot be used together with argument 'seccomp-filter'.",
        ),
        (
            "--seccomp-filter f",
            "The argument 'seccomp-filter' is not supported by this build; leave it out.",
        ),
    ] {
        let mistake = run(line).unwrap_err();
        assert_eq!(
            (mistake.to_string().as_str(), mistake.exit_code()),
            (message, 153)
        );
    }
}

#[test]
fn wrong_values_have_their_exit_codes() {
    for (line, code) in [
        ("--level loud", 152),
        ("--id a_b", 153),
        ("--http-api-max-payload-size many", 153),
        ("--mmds-size-limit -1", 153),
        ("--start-time-us abc", 153),
        ("--start-time-cpu-us 1.5", 153),
        ("--parent-cpu-time-us 18446744073709551616", 153),
        ("--seccomp-filter f", 153),
        ("--snapshot-version", 1),
        ("--describe-snapshot f", 1),
    ] {
        assert_eq!(run(line).unwrap_err().exit_code(), code, "{line}");
    }
}

#[test]
fn help_and_version_win_over_mistakes() {
    for (line, is_help) in [
        ("--nonsense -h", true),
        ("--version --help", true),
        ("x --version", false),
    ] {
        let asked = parse(line.split_whitespace().map(str::to_owned)).unwrap();
        assert_eq!(matches!(asked, Invocation::Help), is_help, "{line}");
    }
}

#[test]
fn what_follows_a_bare_double_dash_is_ignored() {
    assert_eq!(run("--id a -- --version").unwrap().id, "a".parse().unwrap());
}

#[test]
fn flags_of_the_jailer_are_accepted() {
    run("--no-seccomp --start-time-us 1 --start-time-cpu-us 2 --parent-cpu-time-us 3").unwrap();
}

#[test]
fn version_starts_with_the_line_clients_look_for() {
    assert!(version_text().starts_with("Firecracker v1.17.0-dev\n"));
}

#[test]
fn pci_is_off_unless_it_is_enabled() {
    assert_eq!(run("").unwrap().transport, DeviceTransport::Mmio);
    assert_eq!(run("--enable-pci").unwrap().transport, DeviceTransport::Pci);
}

#[test]
fn a_boot_timer_is_there_when_it_is_asked_for() {
    assert!(!run("").unwrap().has_boot_timer);
    assert!(run("--boot-timer").unwrap().has_boot_timer);
    let mistake = run("--boot-timer --boot-timer").unwrap_err();
    assert_eq!(mistake, CliError::Duplicate("boot-timer"));
}

#[test]
fn an_empty_value_is_none() {
    for flag in FLAGS.iter().filter(|flag| flag.takes_value) {
        let arguments = [format!("--{}", flag.name), String::new()];
        let mistake = parse(arguments.into_iter()).unwrap_err();
        assert_eq!(mistake, CliError::MissingValue(flag.name));
    }
}

#[test]
fn help_shows_every_flag_in_order_with_its_default() {
    let help = help_text();
    let (_, flags) = help.split_once("\n\noptional arguments:\n").unwrap();
    let names: Vec<&str> = flags
        .lines()
        .map(|line| line.strip_prefix("  --").unwrap())
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(names.len(), FLAGS.len());
    let socket = "  --api-sock <api-sock>";
    let line = flags.lines().find(|line| line.starts_with(socket)).unwrap();
    assert!(line.ends_with("[default: \"/run/firecracker.socket\"]"));
}
