//! Whether a JSON value is what a schema of the description says: as much of JSON Schema as the description uses.

use serde_json::Value;

/// Checks `value` against `schema`, whose references are into `description`.
///
/// # Errors
/// Where and why it does not fit.
pub(super) fn fits(description: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = description.pointer(reference.trim_start_matches('#'));
        return fits(
            description,
            target.expect("references lead somewhere"),
            value,
        );
    }
    let fitting = |key: &str| {
        let parts = schema[key].as_array()?.iter();
        Some(
            parts
                .map(|part| fits(description, part, value))
                .collect::<Vec<_>>(),
        )
    };
    if let Some(parts) = fitting("allOf") {
        parts.into_iter().collect::<Result<(), _>>()?;
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(parts) = fitting(key)
            && parts.iter().all(Result::is_err)
        {
            return Err(format!("{value}: none of {parts:?}"));
        }
    }
    if let Some(names) = schema["enum"].as_array()
        && !names.contains(value)
    {
        return Err(format!("{value} is none of {names:?}"));
    }
    is_of_type(&schema["type"], value)?;
    is_in_range(schema, value)?;
    match value {
        Value::Object(_) => has_fields(description, schema, value),
        Value::Array(items) if schema.get("items").is_some() => {
            let mut items = items.iter();
            items.try_for_each(|item| fits(description, &schema["items"], item))
        }
        _ => Ok(()),
    }
}

fn is_of_type(wanted: &Value, value: &Value) -> Result<(), String> {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_right = match wanted {
        Value::String(wanted) => wanted == name,
        Value::Array(wanted) => wanted.iter().any(|wanted| wanted == name),
        _ => true,
    };
    is_right
        .then_some(())
        .ok_or(format!("{value} is no {wanted}"))
}

fn is_in_range(schema: &Value, value: &Value) -> Result<(), String> {
    let Some(number) = value.as_u64() else {
        return Ok(());
    };
    let is_right = schema["minimum"]
        .as_u64()
        .is_none_or(|least| least <= number)
        && schema["maximum"].as_u64().is_none_or(|most| number <= most);
    is_right
        .then_some(())
        .ok_or(format!("{number} is out of range"))
}

fn has_fields(description: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap_or_default()).is_none() {
            return Err(format!("{value} has no {name}"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        match (
            schema["properties"].get(name),
            &schema["additionalProperties"],
        ) {
            (Some(schema), _) => fits(description, schema, field)?,
            (None, Value::Bool(false)) => return Err(format!("{name} is unknown")),
            (None, more) if more.is_object() => fits(description, more, field)?,
            (None, _) => {}
        }
    }
    Ok(())
}
