-- Makes the schema {schema}, a quoted name. Repeatable.
create schema if not exists {schema};
