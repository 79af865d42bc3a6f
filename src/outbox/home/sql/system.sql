-- The number that initdb has drawn for this server; a standby has that of its primary. Changes nothing.
select system_identifier::text from pg_control_system()
