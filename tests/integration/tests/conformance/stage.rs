//! A monitor in the phase that a group wants.

use std::fs;

use integration::{Tap, TestVm, guest_kernel};
use serde_json::{Value, json};

use crate::http::{Connection, Found};
use crate::rows::{Answer, Group, Phase, Row};

/// A monitor and the connection to it.
pub struct Stage {
    // Before the monitor, which ends with it.
    connection: Connection,
    vm: TestVm,
    rows: Vec<Row>,
}

impl Stage {
    /// Starts a monitor, does what comes before, and brings it into `phase`.
    pub fn set(group: &Group, phase: Phase) -> Self {
        let mut vm = TestVm::with_arguments("conformance", &words(&group.arguments));
        fs::write(vm.path("disk"), [0; 4096]).unwrap();
        fs::write(vm.path("ragged"), [0; 513]).unwrap();
        fs::write(vm.path("empty"), []).unwrap();
        fs::write(vm.path("text"), "not a kernel\n").unwrap();
        let tap = Tap::new();
        let places = [
            (
                "$dir",
                vm.path("")
                    .display()
                    .to_string()
                    .trim_end_matches('/')
                    .to_owned(),
            ),
            ("$kernel", guest_kernel("halt").display().to_string()),
            ("$tap", tap.name().to_owned()),
        ];
        let long = ("$long", "a".repeat(17 << 10));
        let places = [&places[..], &[long]].concat();
        let fill = |row: &Row| row.filled(&places);
        for row in group.before.iter().flat_map(fill) {
            let (method, path) = row.request.split_once(' ').unwrap();
            let answer = vm.request(method, path, row.body.as_ref());
            assert!(answer.is_success(), "{}: {row}: {answer:?}", group.name);
        }
        if phase != Phase::NotStarted {
            vm.boot(
                "kernel_image_path",
                guest_kernel("halt").display().to_string(),
            );
            vm.start();
            vm.wait_for("sleeping");
        }
        if phase == Phase::Paused {
            vm.pause();
        }
        Self {
            connection: Connection::open(&vm.path("api.sock")),
            vm,
            rows: group.rows.iter().flat_map(fill).collect(),
        }
    }

    /// The group's rows, with the paths of this stage.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Sends what `row` says; gives the answers, or what is wrong with the exchange.
    pub fn play(&mut self, row: &Row) -> Result<Vec<Found>, String> {
        if let Some(mistake) = row.mistake() {
            return Err(mistake);
        }
        let socket = self.vm.path("api.sock");
        let _beside: Vec<Connection> = (0..row.beside).map(|_| Connection::open(&socket)).collect();
        let Some(bytes) = &row.send else {
            let body = match (&row.body, &row.text) {
                (Some(body), _) => body.to_string(),
                (None, text) => text.clone().unwrap_or_default(),
            };
            let found = self.connection.ask(&row.request, &body)?;
            if found.is_stream() {
                self.connection = Connection::open(&socket);
            }
            return Ok(vec![found]);
        };
        let mut own = Connection::open(&socket);
        own.send(bytes.as_bytes());
        let answers = (0..=row.then.len()).map(|_| own.read());
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        if row.closes {
            return own
                .is_closed()
                .then_some(answers)
                .ok_or("it goes on".to_owned());
        }
        let after = own
            .ask("GET /version", "")
            .map_err(|e| format!("after it: {e}"))?;
        (after.status == 200)
            .then_some(answers)
            .ok_or("it does not go on".to_owned())
    }
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

impl Row {
    /// The row as often as it says, with the names of places replaced by the places.
    fn filled(&self, places: &[(&str, String)]) -> Vec<Self> {
        let numbers = (0..self.times).map(|number| ("$n", number.to_string()));
        let filled = numbers.map(|number| self.filled_once(&[places, &[number]].concat()));
        filled.collect()
    }

    fn filled_once(&self, places: &[(&str, String)]) -> Self {
        let fill = |text: &String| {
            let mut text = text.clone();
            for (name, place) in places {
                text = text.replace(name, place);
            }
            text
        };
        let fill_json = |value: &Value| -> Value {
            serde_json::from_str(&fill(&value.to_string())).unwrap_or(json!("a path is odd"))
        };
        let mut row = self.clone();
        row.request = fill(&self.request);
        row.body = self.body.as_ref().map(fill_json);
        row.text = self.text.as_ref().map(fill);
        row.send = self.send.as_ref().map(fill);
        row.answer.answer = self.answer.answer.as_ref().map(fill_json);
        for (key, value) in &self.answer.has {
            row.answer.has.insert(key.clone(), fill_json(value));
        }
        let Answer {
            exact,
            says,
            body_says,
            ..
        } = &mut row.answer;
        for text in exact.iter_mut().chain(says).chain(body_says) {
            *text = fill(text);
        }
        row
    }
}
