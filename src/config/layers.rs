use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, DEFAULT_TOML};

const LONG_PREFIX: &str = "BLYAN__";
const SHORT_NAMES: [(&str, &str); 3] = [
    ("BLYAN_DATA_DIR", "node.data_dir"),
    ("BLYAN_LISTEN", "node.listen"),
    ("BLYAN_LOG", "node.log"),
];

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("{origin}: there is no key `{key}`; the nearest is `{nearest}` ({variable})")]
    UnknownKey {
        /// The file or variable that holds it.
        origin: String,
        /// The key as written.
        key: String,
        /// The key that is most like it.
        nearest: String,
        /// The environment variable of that.
        variable: String,
    },
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{0}")]
    Malformed(Box<figment::Error>),
    /// A value, or values together, break a rule.
    #[error("{0}")]
    Refused(String),
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        Self::Malformed(Box::new(error))
    }
}

/// What the command line sets.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
}

/// Where the configuration comes from, weakest first; the built-in defaults are below all of it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`
    pub file: Option<PathBuf>,
    /// The environment; other variables than Blyan's are ignored.
    pub environment: Vec<(String, String)>,
    /// The command line.
    pub overrides: Overrides,
}

impl Sources {
    /// The process environment with a file and what the command line sets.
    pub fn of_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            file,
            environment: std::env::vars_os().filter_map(text).collect(),
            overrides,
        }
    }

    /// Reads and joins all sources.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let known = dict_of(Toml::string(DEFAULT_TOML))?;
        let mut figment = Figment::from(Layer::of_defaults(&known));
        for layer in self.layers(&known)? {
            layer.check_keys(&known)?;
            figment = figment.merge(layer);
        }
        let config: Config = figment.extract()?;
        match config.fault() {
            Some(fault) => Err(ConfigError::Refused(fault)),
            None => Ok(config),
        }
    }

    fn layers(&self, known: &Dict) -> Result<Vec<Layer>, ConfigError> {
        let mut layers = Vec::new();
        if let Some(path) = &self.file {
            layers.push(Layer::of_file(path)?);
        }
        layers.extend(self.long_variables(known));
        layers.extend(self.short_variables());
        layers.extend(self.overrides.layers());
        Ok(layers)
    }

    fn long_variables<'a>(&'a self, known: &'a Dict) -> impl Iterator<Item = Layer> + 'a {
        self.environment.iter().filter_map(move |(name, text)| {
            let key = name
                .strip_prefix(LONG_PREFIX)?
                .to_lowercase()
                .replace("__", ".");
            let value = typed_like(known, &key, text);
            Some(Layer::of_key(name, &key, value))
        })
    }

    fn short_variables(&self) -> impl Iterator<Item = Layer> + '_ {
        SHORT_NAMES.iter().filter_map(|(name, key)| {
            let (_, text) = self
                .environment
                .iter()
                .find(|(variable, _)| variable == name)?;
            Some(Layer::of_key(name, key, Value::from(text.as_str())))
        })
    }
}

impl Overrides {
    fn layers(&self) -> impl Iterator<Item = Layer> {
        let data_dir = self.data_dir.as_ref().map(|dir| {
            let value = Value::from(dir.to_string_lossy().as_ref());
            Layer::of_key("--data-dir", "node.data_dir", value)
        });
        let listen = self.listen.map(|listen| {
            Layer::of_key("--listen", "node.listen", Value::from(listen.to_string()))
        });
        data_dir.into_iter().chain(listen)
    }
}

/// One source's keys.
struct Layer {
    origin: String,
    keys: Dict,
}

impl Layer {
    fn of_defaults(known: &Dict) -> Self {
        Self {
            origin: "the built-in defaults".to_owned(),
            keys: known.clone(),
        }
    }

    fn of_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            origin: path.display().to_string(),
            keys: dict_of(Toml::string(&text))?,
        })
    }

    fn of_key(origin: &str, key: &str, value: Value) -> Self {
        let nested = figment::util::nest(key, value);
        Self {
            origin: origin.to_owned(),
            keys: nested.into_dict().unwrap_or_default(),
        }
    }

    fn check_keys(&self, known: &Dict) -> Result<(), ConfigError> {
        let Some(key) = first_unknown("", &self.keys, known) else {
            return Ok(());
        };
        let nearest = nearest_key(&key, known);
        Err(ConfigError::UnknownKey {
            origin: self.origin.clone(),
            variable: variable_of(&nearest),
            key,
            nearest,
        })
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(set_keys(self.keys.clone())))
    }
}

fn dict_of(provider: impl Provider) -> Result<Dict, ConfigError> {
    let mut profiles = provider.data()?;
    Ok(profiles.remove(&Profile::Default).unwrap_or_default())
}

/// Without the keys whose value is an empty string: that source does not set them.
fn set_keys(mut sections: Dict) -> Dict {
    for section in sections.values_mut() {
        if let Value::Dict(_, keys) = section {
            keys.retain(|_, value| value.as_str() != Some(""));
        }
    }
    sections
}

/// A variable's text as a value of the default's kind: a text stays a text even if it looks like a number. Where the
/// default is not set there is no kind to keep.
fn typed_like(known: &Dict, key: &str, text: &str) -> Value {
    let parsed = || text.parse().unwrap_or_else(|_| Value::from(text));
    let default = Value::Dict(Tag::Default, known.clone()).find(key);
    match default {
        Some(Value::String(_, default)) if !default.is_empty() => Value::from(text),
        _ => parsed(),
    }
}

fn first_unknown(prefix: &str, keys: &Dict, known: &Dict) -> Option<String> {
    keys.iter().find_map(|(name, value)| {
        let path = format!("{prefix}{name}");
        match (known.get(name), value) {
            (None, Value::Dict(_, inner)) if !inner.is_empty() => first_leaf(&path, inner),
            (None, _) => Some(path),
            (Some(Value::Dict(_, known)), Value::Dict(_, inner)) => {
                first_unknown(&format!("{path}."), inner, known)
            }
            _ => None,
        }
    })
}

fn first_leaf(path: &str, keys: &Dict) -> Option<String> {
    let (name, value) = keys.iter().next()?;
    let path = format!("{path}.{name}");
    match value {
        Value::Dict(_, inner) if !inner.is_empty() => first_leaf(&path, inner),
        _ => Some(path),
    }
}

fn leaves(prefix: &str, keys: &Dict, out: &mut Vec<String>) {
    for (name, value) in keys {
        let path = format!("{prefix}{name}");
        match value {
            Value::Dict(_, inner) => leaves(&format!("{path}."), inner, out),
            _ => out.push(path),
        }
    }
}

fn nearest_key(key: &str, known: &Dict) -> String {
    let mut all = Vec::new();
    leaves("", known, &mut all);
    let distance = |candidate: &String| edit_distance(key, candidate);
    all.into_iter().min_by_key(distance).unwrap_or_default()
}

fn variable_of(key: &str) -> String {
    format!("{LONG_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Levenshtein's distance in bytes, one row of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Sources {
            environment,
            ..Sources::default()
        }
        .load()
    }

    fn with_file(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        Sources {
            file: Some(file),
            ..Sources::default()
        }
        .load()
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = with_env(&[]).unwrap();
        assert_eq!(config.node.listen.to_string(), "127.0.0.1:8000");
        assert_eq!(config.pricing.output_per_1k, 20_000);
        assert_eq!(config.chain.genesis, None);
    }

    #[test]
    fn the_file_says_the_defaults_of_the_actors() {
        let config = with_env(&[]).unwrap();
        assert_eq!(config.chain, blyan_chain::ChainConfig::default());
        assert_eq!(
            config.expert_cache,
            blyan_expert_cache::ExpertCacheConfig::default()
        );
        assert_eq!(
            config.inference,
            blyan_inference::config::InferenceConfig::default()
        );
        assert_eq!(config.security, blyan_security::SecurityConfig::default());
    }

    #[test]
    fn every_default_names_its_variable() {
        let known = dict_of(Toml::string(DEFAULT_TOML)).unwrap();
        let mut keys = Vec::new();
        leaves("", &known, &mut keys);
        assert!(keys.len() > 10);
        for key in keys {
            let variable = format!("# {}", variable_of(&key));
            assert!(DEFAULT_TOML.contains(&variable), "{key} lacks {variable}");
        }
    }

    #[test]
    fn the_shipped_files_hold_known_keys_only() {
        let known = dict_of(Toml::string(DEFAULT_TOML)).unwrap();
        for name in ["production.toml", "test.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("config")
                .join(name);
            Layer::of_file(&path).unwrap().check_keys(&known).unwrap();
        }
    }

    #[test]
    fn later_sources_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(
            &file,
            "[node]\nlisten = \"127.0.0.1:1\"\nlog = \"warn\"\ndata_dir = \"/file\"\n",
        )
        .unwrap();
        let sources = Sources {
            file: Some(file),
            environment: vec![
                ("BLYAN__NODE__LISTEN".into(), "127.0.0.1:2".into()),
                ("BLYAN_LISTEN".into(), "127.0.0.1:3".into()),
                ("BLYAN_DATA_DIR".into(), "/env".into()),
            ],
            overrides: Overrides {
                data_dir: Some("/flag".into()),
                listen: None,
            },
        };
        let config = sources.load().unwrap();
        assert_eq!(config.node.log, "warn");
        assert_eq!(config.node.listen.port(), 3);
        assert_eq!(config.node.data_dir(), Path::new("/flag"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_nearest() {
        let error = with_env(&[("BLYAN__EDGE__STREAM_MAX", "5")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("BLYAN__EDGE__STREAM_MAX"), "{error}");
        assert!(error.contains("`edge.stream_max`"), "{error}");
        assert!(
            error.contains("`edge.streams_max` (BLYAN__EDGE__STREAMS_MAX)"),
            "{error}"
        );
        let error = with_file("[egde]\nworkers = 1\n").unwrap_err().to_string();
        assert!(
            error.contains("`egde.workers`") && error.contains("`edge.workers`"),
            "{error}"
        );
    }

    #[test]
    fn a_variable_takes_the_kind_of_its_default() {
        let config = with_env(&[
            ("BLYAN__CHAIN__NETWORK_NAME", "42"),
            ("BLYAN__INFERENCE__TOP_K_EXPERTS_DEFAULT", "12"),
            ("BLYAN__NODE__DATA_DIR", "/somewhere"),
            ("BLYAN__EDGE__WORKERS", "3"),
            (
                "BLYAN__EDGE__ALLOWED_HOSTS",
                "[\"a.example\", \"b.example:8000\"]",
            ),
        ])
        .unwrap();
        assert_eq!(config.chain.network_name, "42");
        assert_eq!(config.inference.top_k_experts_default, Some(12));
        assert_eq!(config.node.data_dir(), Path::new("/somewhere"));
        assert_eq!(config.edge.workers, 3);
        assert_eq!(config.edge.allowed_hosts, ["a.example", "b.example:8000"]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_its_key() {
        let error = with_file("[edge]\nworkers = \"many\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("workers") && error.contains("node.toml"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_text_leaves_a_key_as_it_was() {
        let config = with_env(&[
            ("BLYAN_LOG", ""),
            ("BLYAN_DATA_DIR", "/a"),
            ("BLYAN__CHAIN__GENESIS", ""),
        ])
        .unwrap();
        assert_eq!(config.node.log, "info");
        assert_eq!(config.chain.genesis, None);
    }

    #[test]
    fn an_open_address_needs_a_key() {
        let error = with_env(&[("BLYAN_LISTEN", "0.0.0.0:8000")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("edge.api_keys"), "{error}");
        let hash = format!("[\"{}\"]", "ab".repeat(32));
        with_env(&[
            ("BLYAN_LISTEN", "0.0.0.0:8000"),
            ("BLYAN__EDGE__API_KEYS", &hash),
        ])
        .unwrap();
    }
}
