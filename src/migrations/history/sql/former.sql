-- As ours.sql, of the table where version 0.1 kept its history. By way of JSON, because it may be a table of an
-- application's that has other columns. No parameters. Changes nothing.
select j ->> 'version' as version, j ->> 'name' as name, j ->> 'checksum' as checksum, j ->> 'applied_on' as applied_on
from (select to_jsonb(h) as j from refinery_schema_history h) h
