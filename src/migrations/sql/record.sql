-- Records a migration as applied. {version}, {name} and {checksum} are replaced: this is also printed as part of a
-- script, which has no parameters. A second run fails on the primary key.
insert into outbox_schema_history (version, name, applied_on, checksum)
values ({version}, '{name}', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '{checksum}');
