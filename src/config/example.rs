//! The commented settings file that `init` writes, and the examples that the reference also shows.

use super::Config;
use super::reader::Section as _;
use super::spec::{Kind, SectionSpec, join, prose, toml_text};

const HEAD: &str = "\
# Settings of outbox-relay. Every setting is listed with its default, commented out: remove the # to change it.
# Only two have no default: `url` in [database] and `bootstrap_servers` in [kafka].
# Flags override the environment, and the environment overrides this file: OUTBOX_RELAY_<SECTION>__<KEY>,
# DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS. `outbox-relay config show` prints the values in effect and their sources.
";

/// Examples for settings whose default is empty, by path.
const EXAMPLES: [(&str, &str); 4] = [
    ("retry.rule", "[[retry.rule]]\ntopic = \"audit-*\"\nerror_class = \"too-large\"\non_exhausted = \"dead-letter\""),
    ("routing.rule", "[[routing.rule]]\naggregate_type = \"order|payment\"\ntopic = \"{aggregate_type}-events\""),
    ("kafka.properties", "[kafka.properties]\nlinger.ms = 5\ncompression.type = \"zstd\""),
    ("projection", "[[projection]]\nname = \"order_totals\"\ntopics = [\"order-events\"]\nsql = \"order_totals.sql\""),
];

const WIDTH: usize = 110;

pub(super) fn of(path: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(of, _)| *of == path).map(|(_, example)| *example)
}

/// The example file. Loads as it is, and with every `#key = value` line uncommented, to the defaults.
pub fn commented_toml() -> String {
    let mut file = HEAD.to_owned();
    for table in Config::spec().tables().into_iter().skip(1) {
        add_table(table, &mut file);
    }
    file
}

fn add_table(spec: &SectionSpec, file: &mut String) {
    file.push('\n');
    add_prose(spec.doc, file);
    if spec.repeated {
        add_example(spec.path, file);
        for field in &spec.fields {
            add_prose(&format!("`{}`: {}", field.key, prose(field.doc)), file);
        }
        return;
    }
    file.push_str(&spec.heading());
    file.push('\n');
    for field in &spec.fields {
        match field.kind {
            Kind::Table(_) | Kind::Tables(_) => {}
            Kind::Map => {
                add_prose(field.doc, file);
                add_example(&join(spec.path, field.key), file);
            }
            Kind::Bool
            | Kind::Integer { .. }
            | Kind::Number
            | Kind::Text
            | Kind::Secret
            | Kind::Path
            | Kind::Duration
            | Kind::Retention
            | Kind::Size
            | Kind::Address
            | Kind::Choice(_)
            | Kind::List => {
                add_prose(field.doc, file);
                file.push_str(&format!("#{} = {}\n", field.key, toml_text(&field.default)));
            }
        }
    }
}

fn add_example(path: &str, file: &mut String) {
    for line in of(path).unwrap_or_default().lines() {
        file.push_str("#   ");
        file.push_str(line);
        file.push('\n');
    }
}

/// Comment lines of at most [`WIDTH`] characters.
fn add_prose(text: &str, file: &mut String) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() + 3 > WIDTH {
            file.push_str(&format!("# {line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    file.push_str(&format!("# {line}\n"));
}
