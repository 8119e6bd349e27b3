//! The order of modules in a crate, read out of its sources: which file uses what, and whether that stands
//! above it.
//!
//! It works on tokens, so that comments and strings are out of the way and code inside of macros is seen.
//! It follows `crate::`, `self::` and `super::` paths; what a glob or an alias brings in later it does not.
//! Code under `#[cfg(test)]` may use any module, but nothing through the crate root either.
//!
//! A folder is one room: its files may use what its `mod.rs` itself defines, so that one type's methods can be
//! spread over them. What `mod.rs` only passes on they import from where it is defined; and among themselves
//! they stand in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The sources of a crate: file name below `src`, `/`-separated, and text.
pub type Sources = BTreeMap<String, String>;

/// Everything in the crate with the root file `root` that uses what does not stand above it.
///
/// # Errors
/// If a file cannot be read as Rust.
pub fn violations(sources: &Sources, root: &str) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    read_module(sources, root, &[], false, &mut files)?;
    let order = files.iter().map(|file| (file.module.as_slice(), file)).collect();
    let found = files.iter().flat_map(|file| file.uses.iter().filter_map(|one| judge(file, one, &order))).collect();
    Ok(found)
}

/// The sources below a folder.
///
/// # Errors
/// If it cannot be read.
pub fn load(src: &Path) -> std::io::Result<Sources> {
    let mut sources = Sources::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(src).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                sources.insert(name, std::fs::read_to_string(&path)?);
            }
        }
    }
    Ok(sources)
}

struct File {
    name: String,
    /// The module that the file is: `["vfs", "mount"]`.
    module: Vec<String>,
    /// The modules that its `mod` lines name, in their order.
    children: Vec<Child>,
    /// What it defines itself, modules aside.
    items: Vec<String>,
    uses: Vec<Use>,
}

#[derive(Clone)]
struct Child {
    name: String,
    in_test: bool,
}

/// The file of each module.
type Order<'a> = BTreeMap<&'a [String], &'a File>;

struct Use {
    line: usize,
    /// From the crate root.
    path: Vec<String>,
    in_test: bool,
}

fn read_module(
    sources: &Sources,
    name: &str,
    module: &[String],
    in_test: bool,
    files: &mut Vec<File>,
) -> Result<(), String> {
    let text = sources.get(name).ok_or_else(|| format!("{name}: a mod line names it, but it is not there"))?;
    let tokens = TokenStream::from_str(text).map_err(|error| format!("{name}: {error}"))?;
    let mut file = File {
        name: name.to_owned(),
        module: module.to_vec(),
        children: Vec::new(),
        items: Vec::new(),
        uses: Vec::new(),
    };
    scan(tokens, module, in_test, &mut file);
    let folder = match name.rsplit_once('/') {
        _ if module.is_empty() => String::new(),
        Some((folder, "mod.rs")) => format!("{folder}/"),
        _ => format!("{}/", name.trim_end_matches(".rs")),
    };
    let children = file.children.clone();
    files.push(file);
    for Child { name: child, in_test } in children {
        let beside = format!("{folder}{child}.rs");
        let inside = format!("{folder}{child}/mod.rs");
        let path = if sources.contains_key(&beside) { beside } else { inside };
        let module: Vec<String> = module.iter().cloned().chain([child]).collect();
        read_module(sources, &path, &module, in_test, files)?;
    }
    Ok(())
}

/// Words that are followed by the name of what they define.
const DEFINING: [&str; 7] = ["const", "enum", "fn", "static", "struct", "trait", "type"];

/// Notes the `mod` lines and the paths of `tokens`; `at` is the module that they stand in, inline ones included.
fn scan(tokens: TokenStream, at: &[String], in_test: bool, file: &mut File) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut test_item = false;
    let mut index = 0;
    while index < tokens.len() {
        let in_test = in_test || test_item;
        match &tokens[index] {
            TokenTree::Punct(punct) if punct.as_char() == '$' => index += 1,
            TokenTree::Punct(punct) if punct.as_char() == ';' => test_item = false,
            TokenTree::Ident(ident) if ident == "mod" => {
                index += 1;
                let Some(TokenTree::Ident(name)) = tokens.get(index) else { continue };
                index += 1;
                if let Some(TokenTree::Group(body)) = tokens.get(index) {
                    let inner: Vec<String> = at.iter().cloned().chain([name.to_string()]).collect();
                    scan(body.stream(), &inner, in_test, file);
                    test_item = false;
                } else if at == file.module {
                    file.children.push(Child { name: name.to_string(), in_test });
                    test_item = false;
                }
            }
            TokenTree::Ident(ident) if at == file.module && DEFINING.iter().any(|word| ident == word) => {
                if let Some(TokenTree::Ident(name)) = tokens.get(index + 1) {
                    file.items.push(name.to_string());
                }
            }
            TokenTree::Ident(ident) if ["crate", "self", "super"].iter().any(|word| ident == word) => {
                index = note_path(&tokens, index, at, in_test, file);
                continue;
            }
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Bracket && group.stream().to_string().replace(' ', "") == "cfg(test)"
                {
                    test_item = true;
                } else {
                    scan(group.stream(), at, in_test, file);
                    test_item &= group.delimiter() != Delimiter::Brace;
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        index += 1;
    }
}

/// Notes the path, or the tree of paths, that begins at `index`; answers where it ends.
fn note_path(tokens: &[TokenTree], mut index: usize, at: &[String], in_test: bool, file: &mut File) -> usize {
    let line = tokens[index].span().start().line;
    let mut base = at.to_vec();
    let mut is_path = false;
    loop {
        match tokens.get(index) {
            Some(TokenTree::Ident(word)) if word == "crate" => base.clear(),
            Some(TokenTree::Ident(word)) if word == "super" => drop(base.pop()),
            Some(TokenTree::Ident(word)) if word == "self" => {}
            _ => break,
        }
        index += 1;
        if !is_separator(tokens, index) {
            break;
        }
        is_path = true;
        index += 2;
    }
    if !is_path {
        return index;
    }
    let mut paths = Vec::new();
    let end = read_tree(tokens, index, &base, &mut paths);
    file.uses.extend(paths.into_iter().map(|path| Use { line, path, in_test }));
    end
}

fn is_separator(tokens: &[TokenTree], index: usize) -> bool {
    let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(index) && is_colon(index + 1)
}

fn read_tree(tokens: &[TokenTree], mut index: usize, base: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    loop {
        match tokens.get(index) {
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => path.push("*".to_owned()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
                for part in inner.split(is_comma).filter(|part| !part.is_empty()) {
                    read_tree(part, 0, &path, paths);
                }
                return index + 1;
            }
            _ => break,
        }
        index += 1;
        if !is_separator(tokens, index) {
            break;
        }
        index += 2;
    }
    paths.push(path);
    index
}

/// What is wrong with a use, if anything.
fn judge(file: &File, one: &Use, order: &Order<'_>) -> Option<String> {
    if one.path.starts_with(&file.module) {
        return None;
    }
    let common = file.module.iter().zip(&one.path).take_while(|(mine, used)| mine == used).count();
    // An ancestor itself, as in `pub(in crate::vfs)`.
    let used = one.path.get(common)?;
    let mine = &file.module[common];
    let parent = &file.module[..common];
    let folder = order.get(parent)?;
    let place = |name: &String| folder.children.iter().position(|sibling| sibling.name == *name);
    let says = |what: String| Some(format!("{}:{}: {what}", file.name, one.line));
    let path = one.path.join("::");
    match (place(used), place(mine)) {
        (None, _) if parent.is_empty() => says(format!("crate::{path} is imported through the crate root")),
        _ if one.in_test => None,
        (None, _) if folder.items.contains(used) => None,
        (None, _) => {
            says(format!("crate::{path} is only passed on by {}: import it from its own file", parent.join("::")))
        }
        (Some(used_at), Some(mine_at)) if used_at < mine_at => None,
        _ => says(format!("crate::{path} is used, but {used} stands below {mine}")),
    }
}
