//! `section!` and `choice!`: a settings struct or a closed list of words, written once.
//!
//! One declaration yields the struct, its defaults, its specification (reference, JSON Schema, example file), its
//! reader and its `Debug`, which masks secrets.

macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident in $path:literal {
            $( $(#[doc = $field_doc:literal])* pub $field:ident : $type:ty = $default:expr, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $field_doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut output = f.debug_struct(stringify!($name));
                $( output.field(stringify!($field), &format_args!("{}", $crate::config::reader::Setting::json(&self.$field))); )*
                output.finish()
            }
        }

        impl $crate::config::reader::Section for $name {
            fn spec() -> $crate::config::spec::SectionSpec {
                let default = Self::default();
                $crate::config::spec::SectionSpec {
                    path: $path,
                    repeated: false,
                    doc: concat!($($doc, "\n"),*),
                    fields: vec![ $( $crate::config::spec::FieldSpec {
                        key: stringify!($field),
                        doc: concat!($($field_doc, "\n"),*),
                        kind: <$type as $crate::config::reader::Setting>::kind(),
                        default: $crate::config::reader::Setting::json(&default.$field),
                    } ),* ],
                }
            }

            fn read_fields(scope: &mut $crate::config::reader::Scope<'_, '_>, fallback: Self) -> Self {
                Self { $( $field: $crate::config::reader::Setting::read(scope, stringify!($field), fallback.$field) ),* }
            }
        }

        impl $crate::config::reader::Setting for $name {
            fn kind() -> $crate::config::spec::Kind {
                $crate::config::spec::Kind::Table(<Self as $crate::config::reader::Section>::spec())
            }

            fn read(scope: &mut $crate::config::reader::Scope<'_, '_>, key: &str, fallback: Self) -> Self {
                scope.table(key, fallback)
            }

            fn json(&self) -> serde_json::Value {
                serde_json::Value::Object(serde_json::Map::from_iter([
                    $( (stringify!($field).to_owned(), $crate::config::reader::Setting::json(&self.$field)) ),*
                ]))
            }
        }
    };
}

macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident { $( $variant:ident = $text:literal ),* $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( #[doc = concat!("`", $text, "`")] $variant, )*
        }

        impl $name {
            /// The word in the settings file.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }
        }

        impl $crate::config::value::Scalar for $name {
            const KIND: $crate::config::spec::Kind = $crate::config::spec::Kind::Choice(&[ $( $text ),* ]);

            fn from_toml(value: &toml::de::DeValue<'_>, _: &std::path::Path) -> Result<Self, $crate::config::value::Bad> {
                $crate::config::value::string(value, <Self as $crate::config::value::Scalar>::KIND).and_then(Self::from_text)
            }

            fn from_text(text: &str) -> Result<Self, $crate::config::value::Bad> {
                match text {
                    $( $text => Ok(Self::$variant), )*
                    _ => Err($crate::config::value::Bad::word(text, &[ $( $text ),* ])),
                }
            }

            fn show(&self) -> serde_json::Value {
                self.as_str().into()
            }
        }

        $crate::config::reader::scalar_settings!($name);
    };
}

pub(crate) use {choice, section};
