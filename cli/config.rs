//! The configuration file of `ddbctl`: clusters by name, and how each is spoken to.
//!
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! endpoints = ["db1.example:8080", "db2.example:8080"]
//! ca = "prod/ca.crt"
//! cert = "prod/client-ops.crt"
//! key = "prod/client-ops.key"
//! ```
//!
//! - A context says what neither the command line nor the environment does, each thing by itself;
//!   who calls, by a certificate with its key or by a token, is one thing.
//! - Paths are those of files beside this one, unless they are absolute.
//! - A word that is not known is refused, with the known one that is most like it: what is misspelt
//!   must not be as if it were not there.
//! - No secret stands in it. Who can read which file names a token is asked nevertheless: whoever
//!   may write there could name another cluster for it.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    ops::Range,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    args::{Endpoints, Secured, endpoint},
    term::exit::{self, Failure},
};
use crate::base::limits;

const CURRENT: &str = "current";
const CONTEXTS: &str = "contexts";
const KEYS: [&str; 6] = ["endpoints", "ca", "cert", "key", "server_name", "token_file"];
/// Who else may read a file: its group and all others.
const OTHERS: u32 = 0o077;
const NEAR: usize = 3;

/// How one cluster is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub endpoints: Vec<String>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub server_name: Option<String>,
    pub token_file: Option<PathBuf>,
}

/// The file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub path: PathBuf,
    pub current: Option<String>,
    pub contexts: BTreeMap<String, Context>,
    text: String,
    /// Where the value of `current` stands in the text.
    current_at: Option<Range<usize>>,
}

impl Context {
    /// Says what was not said.
    fn fill(&self, endpoints: &mut Option<Endpoints>, secured: &mut Secured) {
        if endpoints.is_none() && !self.endpoints.is_empty() {
            *endpoints = Some(Endpoints(self.endpoints.clone()));
        }
        let Context { endpoints: _, ca, cert, key, server_name, token_file } = self.clone();
        secured.ca = secured.ca.take().or(ca);
        secured.server_name = secured.server_name.take().or(server_name);
        // Who calls is one thing: a certificate with its key, or a token.
        if secured.cert.is_none() && secured.key.is_none() && secured.token_file.is_none() {
            (secured.cert, secured.key, secured.token_file) = (cert, key, token_file);
        }
    }
}

/// Where the file is looked for; none where nobody says who is at home.
pub fn place() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("devicedb/config.toml"))
}

/// Says what was not said, by the context that is named or else the current one.
pub fn complete(
    name: Option<&str>,
    endpoints: &mut Option<Endpoints>,
    secured: &mut Secured,
) -> Result<(), Failure> {
    if name == Some("") {
        return Ok(());
    }
    let config = Config::load()?;
    match (config, name) {
        (Some(config), _) => {
            if let Some(name) = name.or(config.current.as_deref()) {
                config.context(name)?.fill(endpoints, secured);
            }
            Ok(())
        }
        (None, Some(name)) => Err(no_file(name)),
        (None, None) => Ok(()),
    }
}

fn no_file(name: &str) -> Failure {
    let place = place()
        .map_or("$HOME/.config/devicedb/config.toml".into(), |path| path.display().to_string());
    Failure::usage(
        format!("context {name:?} is not there: there is no {place}"),
        format!("write it, with [contexts.{name}] and endpoints = [\"HOST:PORT\"]"),
    )
}

impl Config {
    /// None where there is no file.
    pub fn load() -> Result<Option<Config>, Failure> {
        let Some(path) = place() else { return Ok(None) };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unreadable(&path, &e)),
        };
        let (mut bytes, most) = (Vec::new(), limits::CTL_CONFIG_BYTES_MAX);
        let mode = file.metadata().map_err(|e| unreadable(&path, &e))?.permissions().mode();
        let read = file.take(most + 1).read_to_end(&mut bytes);
        read.map_err(|e| unreadable(&path, &e))?;
        if bytes.len() as u64 > most {
            return Err(unreadable(&path, &format!("it holds more than {most} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|e| unreadable(&path, &e))?;
        let config = Config::parse(&path, text)?;
        if config.contexts.values().any(|context| context.token_file.is_some()) {
            private(&path, mode, "it says which token goes to which cluster")?;
        }
        Ok(Some(config))
    }

    /// What the text says, of a file that lies there.
    pub fn parse(path: &Path, text: String) -> Result<Config, Failure> {
        let reader = Reader { path, text: &text };
        let parsed = DeTable::parse(&text)
            .map_err(|e| reader.wrong(e.span().unwrap_or(0..0), e.message(), "mend it"))?;
        let (mut current, mut current_at, mut contexts) = (None, None, BTreeMap::new());
        for (key, value) in parsed.get_ref() {
            match key.get_ref().as_ref() {
                CURRENT => {
                    current = Some(reader.text(CURRENT, value)?);
                    current_at = Some(value.span());
                }
                CONTEXTS => {
                    for (name, value) in reader.table(CONTEXTS, value)? {
                        let context = reader.context(name.get_ref(), value)?;
                        contexts.insert(name.get_ref().to_string(), context);
                    }
                }
                other => {
                    let near = nearest(other, &[CURRENT, CONTEXTS]);
                    let what = format!("{other:?} is not known here");
                    return Err(reader.wrong(key.span(), &what, &near));
                }
            }
        }
        let config = Config { path: path.to_owned(), current, contexts, text, current_at };
        if let Some(current) = &config.current {
            config.context(current)?;
        }
        Ok(config)
    }

    pub fn context(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let remedy = match known.is_empty() {
                true => "it has none".to_owned(),
                false => nearest(name, &known),
            };
            let place = self.path.display().to_string();
            Failure::new(exit::USAGE, format!("there is no context {name:?}"), place, remedy)
        })
    }

    /// Makes a context the current one. The rest of the file stays as it is written.
    pub fn use_context(&self, name: &str) -> Result<(), Failure> {
        self.context(name)?;
        let quoted = serde_json::to_string(name).expect("a text is JSON");
        let mut text = self.text.clone();
        match &self.current_at {
            Some(at) => text.replace_range(at.clone(), &quoted),
            None => text = format!("{CURRENT} = {quoted}\n{text}"),
        }
        Config::parse(&self.path, text.clone())?;
        // Who keeps the file elsewhere has a link here, which stays.
        let path = fs::canonicalize(&self.path).map_err(|e| unreadable(&self.path, &e))?;
        let aside = path.with_extension("toml.new");
        let written = || {
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(mode).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        written().map_err(|e: std::io::Error| {
            let place = path.display().to_string();
            Failure::new(exit::FAILED, e.to_string(), place, "see who may write there")
        })
    }
}

/// Refuses a file that others can read.
pub fn private(path: &Path, mode: u32, why: &str) -> Result<(), Failure> {
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let path = path.display().to_string();
    let remedy = format!("chmod 600 {path}");
    Err(Failure::new(exit::USAGE, format!("others can read the file, and {why}"), path, remedy))
}

pub fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    let remedy = "see what stands there, and who may read it";
    Failure::new(exit::USAGE, why.to_string(), path.display().to_string(), remedy)
}

/// The known word that is most like this one, as what to do.
pub fn nearest(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (strsim::damerau_levenshtein(word, known), known)).min();
    match near {
        Some((distance, known)) if distance <= NEAR.min(word.len()) => {
            format!("did you mean {known:?}?")
        }
        _ => format!("known are {}", known.join(", ")),
    }
}

/// Takes values out of a file, and says where one is wrong.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, at: Range<usize>, what: &str, remedy: &str) -> Failure {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        Failure::new(exit::USAGE, what, format!("{}:{line}", self.path.display()), remedy)
    }

    fn text(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, Failure> {
        match value.get_ref().as_str() {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            Some(_) => Err(self.wrong(value.span(), &format!("{key} is empty"), "leave it out")),
            None => {
                let what = format!("{key} is {} and no text", value.get_ref().type_str());
                Err(self.wrong(value.span(), &what, &format!("write {key} = \"...\"")))
            }
        }
    }

    fn table<'t, 'i>(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Result<&'t DeTable<'i>, Failure> {
        value.get_ref().as_table().ok_or_else(|| {
            let what = format!("{key} is {} and no table", value.get_ref().type_str());
            self.wrong(value.span(), &what, "write [contexts.NAME]")
        })
    }

    fn file(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Option<PathBuf>, Failure> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        Ok(Some(folder.join(self.text(key, value)?)))
    }

    fn context(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<Context, Failure> {
        let mut context = Context::default();
        for (key, value) in self.table(&format!("{CONTEXTS}.{name}"), value)? {
            match key.get_ref().as_ref() {
                "endpoints" => context.endpoints = self.endpoints(value)?,
                "ca" => context.ca = self.file("ca", value)?,
                "cert" => context.cert = self.file("cert", value)?,
                "key" => context.key = self.file("key", value)?,
                "token_file" => context.token_file = self.file("token_file", value)?,
                "server_name" => context.server_name = Some(self.text("server_name", value)?),
                "token" => {
                    return Err(self.wrong(
                        key.span(),
                        "a token does not stand here",
                        "write it to a file of its own, chmod 600, and name that with token_file; \
                         revoke this one if others could read it",
                    ));
                }
                other => {
                    let what = format!("context {name:?} knows no {other:?}");
                    return Err(self.wrong(key.span(), &what, &nearest(other, &KEYS)));
                }
            }
        }
        Ok(context)
    }

    fn endpoints(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Failure> {
        let write = "write endpoints = [\"HOST:PORT\"]";
        let Some(all) = value.get_ref().as_array().filter(|all| !all.is_empty()) else {
            return Err(self.wrong(value.span(), "endpoints are no list of texts", write));
        };
        let one = |value: &Spanned<DeValue<'_>>| {
            let text = self.text("an endpoint", value)?;
            endpoint(&text).map_err(|e| self.wrong(value.span(), &e, write))
        };
        all.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_wrongly_is_told_with_its_line_and_what_to_write() {
        let prod = "[contexts.prod]\nendpoints = [\"db1:8080\"]\n";
        let cases = [
            ("nothing at all", String::new()),
            ("a context", prod.to_owned()),
            ("a current one", format!("current = \"prod\"\n\n{prod}")),
            (
                "everything",
                format!(
                    "{prod}ca = \"ca.crt\"\ncert = \"/etc/c.crt\"\nkey = \
                     \"/etc/c.key\"\nserver_name = \"db.example\"\ntoken_file = \"t\"\n"
                ),
            ),
            ("a current one that is not there", format!("current = \"prd\"\n{prod}")),
            ("a current one of none", "current = \"prod\"\n".to_owned()),
            ("a misspelt key", "[contexts.prod]\nendpoint = [\"db1:8080\"]\n".to_owned()),
            ("a key of something else", format!("{prod}insecure = true\n")),
            ("a misspelt table", "[context.prod]\n".to_owned()),
            ("a token", format!("{prod}token = \"ddb_secret\"\n")),
            ("a number", format!("{prod}ca = 7\n")),
            ("an empty name", format!("{prod}ca = \"\"\n")),
            ("endpoints as a text", "[contexts.p]\nendpoints = \"db1:8080\"\n".to_owned()),
            ("no endpoints", "[contexts.p]\nendpoints = []\n".to_owned()),
            ("no port", "[contexts.p]\n\nendpoints = [\n\"db1\"]\n".to_owned()),
            ("a context that is none", "contexts.p = 1\n".to_owned()),
            ("a key twice", format!("{prod}ca = \"a\"\nca = \"b\"\n")),
            ("no TOML", "[contexts.prod\n".to_owned()),
        ];
        let mut story = String::new();
        for (name, text) in cases {
            let told = match Config::parse(Path::new("/home/me/config.toml"), text) {
                Ok(config) => format!("current {:?}, {:?}", config.current, config.contexts),
                Err(e) => format!("exit {}: {e}", e.exit),
            };
            assert!(!told.contains("ddb_secret"), "a secret is told: {told}");
            story += &format!("{name}: {told}\n");
        }
        crate::ctl::golden::check("config.txt", &story);
    }

    #[test]
    fn a_context_says_only_what_was_not_said_and_who_calls_is_one_thing() {
        let file = |name: &str| Some(PathBuf::from(name));
        let context = Context {
            endpoints: vec!["a:1".into()],
            ca: file("ca"),
            cert: file("cert"),
            key: file("key"),
            server_name: Some("name".into()),
            token_file: None,
        };
        let (mut endpoints, mut secured) = (None, Secured::default());
        context.fill(&mut endpoints, &mut secured);
        assert_eq!(endpoints, Some(Endpoints(vec!["a:1".into()])));
        assert_eq!(
            (secured.ca, secured.cert, secured.key),
            (file("ca"), file("cert"), file("key"))
        );
        assert_eq!((secured.server_name, secured.token_file), (Some("name".into()), None));

        let mut endpoints = Some(Endpoints(vec!["b:2".into()]));
        let mut secured = Secured { cert: file("mine"), ca: file("my ca"), ..Default::default() };
        context.fill(&mut endpoints, &mut secured);
        assert_eq!(endpoints, Some(Endpoints(vec!["b:2".into()])));
        assert_eq!((secured.ca, secured.cert, secured.key), (file("my ca"), file("mine"), None));

        let mut secured = Secured { token_file: file("token"), ..Default::default() };
        context.fill(&mut endpoints, &mut secured);
        assert_eq!((secured.cert, secured.key, secured.token_file), (None, None, file("token")));
        let context = Context { cert: None, key: None, token_file: file("token"), ..context };
        let (cert, key) = (file("cert"), file("key"));
        let mut secured = Secured { cert, key, ..Default::default() };
        context.fill(&mut endpoints, &mut secured);
        assert_eq!((secured.key, secured.token_file), (file("key"), None));
    }
}
