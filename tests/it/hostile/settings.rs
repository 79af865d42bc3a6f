//! Defaults of a database that an administrator may have set for reasons of their own, and that change what a statement
//! means.

/// Name and value, as `alter database … set` takes them. Each can change a result or the meaning of a commit.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_isolation", "'repeatable read'"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "''"),
    ("search_path", "'nowhere'"),
    ("row_security", "on"),
    ("bytea_output", "'escape'"),
    ("datestyle", "'German, DMY'"),
    ("intervalstyle", "'sql_standard'"),
    ("timezone", "'Asia/Kathmandu'"),
    ("extra_float_digits", "-15"),
    ("standard_conforming_strings", "off"),
    ("xmloption", "'document'"),
    ("client_min_messages", "'debug5'"),
    ("statement_timeout", "'50ms'"),
    ("lock_timeout", "'1ms'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
    ("idle_session_timeout", "'200ms'"),
    ("enable_indexscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_sort", "off"),
    ("plan_cache_mode", "'force_custom_plan'"),
    ("work_mem", "'64kB'"),
    ("jit_above_cost", "0"),
    ("max_parallel_workers_per_gather", "4"),
    ("min_parallel_table_scan_size", "0"),
    ("parallel_setup_cost", "0"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("synchronize_seqscans", "off"),
    ("backslash_quote", "on"),
    ("escape_string_warning", "on"),
    ("default_toast_compression", "'lz4'"),
];

/// Statements that set one of them for a database.
pub fn alter(database: &str, (name, value): (&str, &str)) -> String {
    format!("alter database {database} set {name} = {value}")
}
