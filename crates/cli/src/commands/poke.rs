//! `poke`: writes some bytes into a file where they belong, and syncs them.

use std::{io::Read, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use mmap_client::{MESSAGE_MAX, Prot};
use serde_json::json;

use crate::{context::Context, exit::Failure, output, units};

/// Write bytes at an offset of a file and sync them; the file's size stays as it is
///
/// Up to 4 MiB are written at one instant, as every reader of the mapping sees it. The store has the old content or
/// the new at any time.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct Poke {
    /// The file
    path: String,
    /// Where the bytes go, as 4096 or 64MiB
    #[arg(long, value_parser = units::parse_size)]
    offset: u64,
    /// The bytes, as text
    #[arg(group = "what")]
    data: Option<String>,
    /// A local file with the bytes; `-` is standard input
    #[arg(long, group = "what", value_name = "LOCAL")]
    file: Option<PathBuf>,
    /// The bytes in hexadecimal, spaces allowed: "de ad be ef"
    #[arg(long, group = "what", value_name = "HEX")]
    hex: Option<String>,
}

impl Poke {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let bytes = self.bytes()?;
        if bytes.is_empty() {
            return Err(Failure::usage("there is nothing to write: 0 bytes were given").into());
        }
        let (length, offset, path) = (bytes.len() as u64, self.offset, self.path);
        let version = context
            .with_process("poke", async |process| {
                let mapping =
                    process.map(path.as_str()).offset(offset).length(length).prot(Prot::READ_WRITE).shared().await?;
                let size = mapping.file_size();
                if offset.checked_add(length).is_none_or(|end| end > size) {
                    // Writes behind the end within the last page are dropped by contract: say so instead.
                    return Err(Failure::failed(format!(
                        "{path} is {size} bytes long, and {length} bytes at {offset} reach behind its end: make it \
                         longer first with `mmapctl truncate`"
                    ))
                    .into());
                }
                if bytes.len() <= MESSAGE_MAX {
                    mapping.write(0, bytes).await?;
                } else {
                    mapping.write_all(0, bytes).await?;
                }
                let synced = mapping.sync().deadline(context.store_timeout()).await?;
                mapping.unmap().await.map_err(mmap_client::Error::from)?;
                Ok(synced.version)
            })
            .await?;
        if context.is_json() {
            let wrote = json!({ "path": path, "offset": offset, "written": length, "version": version });
            return output::json(&wrote);
        }
        output::line(&format!("wrote {length} bytes at {offset} of {path}"))
    }

    /// Of the three, clap has seen to it that exactly one is there.
    fn bytes(&self) -> Result<Vec<u8>> {
        if let Some(hex) = &self.hex {
            return parse_hex(hex).map_err(|message| Failure::usage(message).into());
        }
        let Some(file) = &self.file else { return Ok(self.data.clone().unwrap_or_default().into_bytes()) };
        if file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
            return Ok(bytes);
        }
        std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).ok_or_else(|| format!("{c:?} is no hexadecimal digit")))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err(format!("{} hexadecimal digits are half a byte too many", digits.len()));
    }
    // Two digits below 16 make a byte.
    Ok(digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or(u8::MAX)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_exactly_or_refused() {
        assert_eq!(parse_hex("de ad BE ef"), Ok(vec![0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(parse_hex(""), Ok(Vec::new()));
        assert!(parse_hex("abc").is_err());
        assert!(parse_hex("0x").is_err());
    }
}
