//! Mounts as tables of the file, turned into the text that a flag would have: the options go into the URL's
//! query, so that there is one reader of them.
//!
//! ```toml
//! [[mount]]
//! prefix = "/data"
//! url = "s3://bucket/prefix"
//! region = "eu-central-1"
//! ro = true
//! ```

use url::form_urlencoded::byte_serialize;

/// `PREFIX=URL?OPTIONS` of a mount's table.
///
/// # Errors
/// A sentence that says what is missing, or does not fit.
pub(super) fn text_of_table(table: &toml::Table) -> Result<String, String> {
    let text = |key: &str| {
        let value = table.get(key).and_then(toml::Value::as_str);
        value.ok_or_else(|| format!("a mount needs a {key}: prefix = \"/data\" and url = \"s3://bucket/prefix\""))
    };
    let mut mount = format!("{}={}", text("prefix")?, text("url")?);
    for (option, value) in table.iter().filter(|(key, _)| *key != "prefix" && *key != "url") {
        let Some(value) =
            value_of(value).map_err(|kind| format!("the option {option} cannot be a value of type {kind}"))?
        else {
            continue;
        };
        mount.push(if mount.contains('?') { '&' } else { '?' });
        mount.extend(byte_serialize(option.as_bytes()));
        mount.push('=');
        mount.extend(byte_serialize(value.as_bytes()));
    }
    Ok(mount)
}

/// An option's value as it stands in a query; `None` for one that is off.
fn value_of(value: &toml::Value) -> Result<Option<String>, &'static str> {
    match value {
        toml::Value::Boolean(false) => Ok(None),
        toml::Value::Boolean(true) => Ok(Some("true".to_owned())),
        toml::Value::String(text) => Ok(Some(text.clone())),
        toml::Value::Integer(number) => Ok(Some(number.to_string())),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(value.type_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        text_of_table(&text.parse().unwrap())
    }

    #[test]
    fn a_tables_options_go_into_the_urls_query() {
        let plain = "prefix = \"/a\"\nurl = \"s3://b/c\"\n";
        assert_eq!(read(plain).unwrap(), "/a=s3://b/c");
        assert_eq!(read(&format!("{plain}ro = true\nallow_http = false\n")).unwrap(), "/a=s3://b/c?ro=true");
        let endpoint = format!("{plain}endpoint = \"http://127.0.0.1:9000\"\nro = true\n");
        assert_eq!(read(&endpoint).unwrap(), "/a=s3://b/c?endpoint=http%3A%2F%2F127.0.0.1%3A9000&ro=true");
        let asked = "prefix = \"/a\"\nurl = \"s3://b?ro\"\nregion = \"eu\"\n";
        assert_eq!(read(asked).unwrap(), "/a=s3://b?ro&region=eu");
    }

    #[test]
    fn a_table_without_prefix_or_url_or_with_strange_options_is_refused() {
        for text in ["url = \"memory:\"", "prefix = \"/a\"", "prefix = 1\nurl = \"memory:\""] {
            assert!(read(text).unwrap_err().contains("a mount needs"));
        }
        assert!(read("prefix = \"/a\"\nurl = \"memory:\"\nro = [1]\n").unwrap_err().contains("ro"));
    }
}
