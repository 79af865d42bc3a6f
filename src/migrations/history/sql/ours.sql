-- What was applied, as texts. No parameters. Changes nothing.
select version::text, name::text, checksum::text, applied_on::text from outbox_schema_history order by outbox_schema_history.version
